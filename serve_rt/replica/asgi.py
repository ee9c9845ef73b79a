"""Runs ASGI applications and responses: HTTP, WebSocket and lifespan.

`HttpSend` is ASGI's `send` on a `Call`: an answer whose body comes in one message right after its head leaves as one
part. WebSocket messages are parts, one to one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from serve_rt.pb import stream_pb2 as pb
from serve_rt.replica.call import Call
from serve_rt.replica.http_answer import flat_headers
from serve_rt.replica.http_request import Receive, websocket_message

Message = dict[str, Any]  # Any: ASGI says so
App = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]


async def run_http(app: App, scope: Message, receive: Receive, call: Call) -> None:
    """*Errors*: what the application raises, unless its answer was complete by then (then it is the caller's log)."""
    send = HttpSend(call)
    await app(scope, receive, send)
    if not send.complete:
        raise RuntimeError("the ASGI application returned before its response was complete")
    call.leave()


class HttpSend:
    __slots__ = ("_call", "_flush", "_head", "complete")

    def __init__(self, call: Call) -> None:
        self._call = call
        self._head: tuple[int, tuple[bytes, ...]] | None = None
        self._flush: asyncio.Handle | None = None
        self.complete = False

    async def __call__(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            self._start(message)
        elif kind == "http.response.body":
            await self._body(message.get("body", b""), message.get("more_body", False))
        else:
            raise RuntimeError(f"unexpected ASGI message {kind!r} for an HTTP request")

    def _start(self, message: Message) -> None:
        self._head = (message["status"], flat_headers(message.get("headers", ())))
        # If the body does not follow at once (it has not been made yet), the head must not wait for it.
        self._flush = asyncio.get_running_loop().call_soon(self._flush_head)

    def _flush_head(self) -> None:
        if self._head is not None:
            status, headers = self._head
            self._head = None
            self._call.send_head(status, headers)

    async def _body(self, body: Any, more: bool) -> None:
        if self.complete:
            return
        if self._head is not None and not more:
            self.complete = True
            self._send_whole(bytes(body))
            return
        self._flush_head()
        if body:
            await self._call.send_data(bytes(body))
        if not more:
            self.complete = True
            self._call.send_end()

    def _send_whole(self, body: bytes) -> None:
        assert self._head is not None
        status, headers = self._head
        self._head = None
        if self._flush is not None:
            self._flush.cancel()
        self._call.send_whole(status, headers, body)


async def run_websocket(app: App, scope: Message, call: Call) -> None:
    socket = _WebSocket(call)
    try:
        await app(scope, socket.receive, socket.send)
    finally:
        socket.end()
    call.leave()


class _WebSocket:
    def __init__(self, call: Call) -> None:
        self._call = call
        self._connected = False
        self._accepted = False
        self._closed = False
        self._gone = False
        self._denial: tuple[int, tuple[bytes, ...]] | None = None

    async def receive(self) -> Message:
        if not self._connected:
            self._connected = True
            return {"type": "websocket.connect"}
        if self._gone:
            return websocket_message(None)
        message = websocket_message(await self._call.receive_part())
        self._gone = message["type"] == "websocket.disconnect"
        return message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.accept":
            self._accepted = True
            self._call.send_head(101, flat_headers(message.get("headers") or ()), message.get("subprotocol") or "")
        elif kind == "websocket.send":
            await self._send_data(message)
        elif kind == "websocket.close":
            self._close(message.get("code", 1000), message.get("reason") or "")
        elif kind == "websocket.http.response.start":
            self._denial = (message["status"], flat_headers(message.get("headers", ())))
        elif kind == "websocket.http.response.body":
            await self._deny(bytes(message.get("body", b"")), message.get("more_body", False))
        else:
            raise RuntimeError(f"unexpected ASGI message {kind!r} for a WebSocket")

    async def _send_data(self, message: Message) -> None:
        if self._closed:
            raise RuntimeError("websocket.send after websocket.close")
        text = message.get("text")
        if text is not None:
            await self._call.send_data(text.encode("utf-8"), pb.DATA_KIND_WS_TEXT)
        else:
            await self._call.send_data(bytes(message["bytes"]), pb.DATA_KIND_WS_BINARY)

    def _close(self, code: int, reason: str) -> None:
        if self._closed:
            return
        self._closed = True
        if self._accepted:
            self._call.send_last(b"", pb.DATA_KIND_WS_CLOSE, code, reason)
        else:
            self._call.send_whole(403, (b"content-length", b"0"), b"")

    async def _deny(self, body: bytes, more: bool) -> None:
        if self._denial is not None:
            status, headers = self._denial
            self._denial = None
            self._closed = True
            self._call.send_head(status, headers)
        if more:
            await self._call.send_data(body)
        else:
            self._call.send_last(body, pb.DATA_KIND_BODY)

    def end(self) -> None:
        """The application has returned or failed: a socket it left open is closed as uvicorn would."""
        self._close(1000 if self._accepted and self._gone else 1011, "")


class Lifespan:
    """One lifespan of one application, on the user loop. An application that does not know the protocol is fine."""

    def __init__(self, app: App) -> None:
        self._app = app
        self.state: dict[str, Any] = {}
        self._inbox: asyncio.Queue[Message] = asyncio.Queue(2)
        self._started: asyncio.Future[str | None] | None = None
        self._task: asyncio.Task[None] | None = None

    async def startup(self) -> None:
        """*Errors*: RuntimeError with the application's words when its start-up fails."""
        loop = asyncio.get_running_loop()
        self._started = loop.create_future()
        self._inbox.put_nowait({"type": "lifespan.startup"})
        self._task = loop.create_task(self._run(), name="ASGI lifespan")
        failure = await self._started
        if failure is not None:
            raise RuntimeError(f"the ASGI application's start-up failed: {failure}")

    async def shutdown(self, timeout_s: float) -> None:
        if self._task is None or self._task.done():
            return
        self._inbox.put_nowait({"type": "lifespan.shutdown"})
        await asyncio.wait({self._task}, timeout=timeout_s)
        self._task.cancel()

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        started = self._started
        assert started is not None
        try:
            await self._app(scope, self._inbox.get, self._send)
        except Exception:  # by convention: the application does not know lifespans (it would have said "failed")
            pass
        if not started.done():
            started.set_result(None)

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        assert self._started is not None
        if kind == "lifespan.startup.complete" and not self._started.done():
            self._started.set_result(None)
        elif kind == "lifespan.startup.failed" and not self._started.done():
            self._started.set_result(message.get("message") or "no message")
