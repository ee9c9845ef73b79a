"""A WebSocket through the stream: one ASGI message, one part, both ways.

While neither side has to wait a message needs no task: the client's goes from its connection's parser into the
exchange, the application's from the stream's part to the client's connection. The two tasks here have what must wait,
the beginning and the end.

A client that leaves is told to the application as a close, as ASGI says, not as a cancel; an application that does not
end by itself after that is cancelled.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from serve_rt.errors import ConfigError, ServeException
from serve_rt.observe.request_counts import RequestCounts
from serve_rt.pb import stream_pb2 as pb
from serve_rt.proxy.answers import Answer, answer_for, not_found
from serve_rt.proxy.headers import RequestHeaders, read_headers, response_headers
from serve_rt.proxy.limits import Limits
from serve_rt.proxy.request_ids import RequestIds
from serve_rt.proxy.routes import Target
from serve_rt.proxy.websocket_protocol import ProxyWebSocketProtocol
from serve_rt.routing import Exchange, Outgoing, Routers
from serve_rt.transport.data import Data

log = logging.getLogger(__name__)

Scope = dict[str, Any]  # Any: ASGI says so
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

LAST_WORDS_S = 10.0
"""How long an application may go on after its client has left."""
_GOING_AWAY, _INTERNAL_ERROR = 1001, 1011


METHOD = "WEBSOCKET"
"""What metrics show in place of an HTTP method."""


class _Outcome:
    """The status of the refusal, or the code of the close."""

    __slots__ = ("status",)

    def __init__(self) -> None:
        self.status = _INTERNAL_ERROR


class WebSocketForward:
    def __init__(self, routers: Routers, limits: Limits, counts: RequestCounts) -> None:
        self.requests = 0
        self._routers, self._limits, self._counts = routers, limits, counts
        self._ids = RequestIds()

    async def __call__(self, target: Target | None, scope: Scope, receive: Receive, send: Send) -> None:
        self.requests += 1
        began_s, outcome = time.monotonic(), _Outcome()
        connection: ProxyWebSocketProtocol | None = scope.pop("serve_rt.websocket", None)  # or it would know itself
        try:
            await self._serve(target, scope, receive, send, outcome, connection)
        finally:
            app, prefix = (target.app.name, target.prefix) if target is not None else ("", "")
            self._counts.add((app, prefix, METHOD, str(outcome.status)), time.monotonic() - began_s)

    async def _serve(
        self,
        target: Target | None,
        scope: Scope,
        receive: Receive,
        send: Send,
        outcome: _Outcome,
        connection: ProxyWebSocketProtocol | None,
    ) -> None:
        await receive()  # websocket.connect
        if target is None:
            await _deny(send, not_found(scope["path"]), outcome)
            return
        request_id = ""
        try:
            headers = read_headers(scope["headers"])
            request_id = headers.request_id or self._ids.next()
            request = Outgoing(
                http=_http_head(scope, target, headers, request_id),
                call=None,
                body=b"",
                end=False,
                request_id=request_id,
                queue_timeout_s=target.app.queue_timeout_s,
                app=target.app.name,
                route=target.prefix,
                multiplexed_model_id=headers.multiplexed_model_id,
                session_id=headers.session_id,
            )
            exchange = await self._routers.router(target.key).send(request)
        except ConfigError as error:
            await _deny(send, Answer(400, str(error)), outcome)
            return
        except ServeException as error:
            await _deny(send, answer_for(error, request_id, None), outcome)
            return
        try:
            if connection is not None:
                connection.on_message = exchange.send_at_once
                exchange.offer_messages(connection.send_message)
            await self._relay(exchange, receive, send, request_id, outcome)
        finally:
            if connection is not None:
                connection.on_message = None

    async def _relay(
        self, exchange: Exchange, receive: Receive, send: Send, request_id: str, outcome: _Outcome
    ) -> None:
        upward = asyncio.create_task(self._upward(exchange, receive, outcome), name="websocket up")
        try:
            await _downward(exchange, send, request_id, outcome)
        except asyncio.CancelledError:
            outcome.status = _GOING_AWAY  # the proxy ends
        except ServeException as error:
            log.warning("websocket failed: %s", error, extra={"action": "request_failed", "request_id": request_id})
            await _close_after(error, exchange, send, request_id, outcome)
        finally:
            exchange.cancel("the WebSocket is over")
            upward.cancel()
            await asyncio.gather(upward, return_exceptions=True)

    async def _upward(self, exchange: Exchange, receive: Receive, outcome: _Outcome) -> None:
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                code, reason = message.get("code") or 1005, message.get("reason") or ""
                outcome.status = code
                exchange.send(b"", end=True, kind=pb.DATA_KIND_WS_CLOSE, code=code, reason=reason)
                await asyncio.sleep(LAST_WORDS_S)
                exchange.cancel("the client left")
                return
            text = message.get("text")
            if text is not None:
                exchange.send(text.encode(), kind=pb.DATA_KIND_WS_TEXT)
            else:
                exchange.send(message["bytes"], kind=pb.DATA_KIND_WS_BINARY)
            await exchange.send_ready()


def _http_head(scope: Scope, target: Target, headers: RequestHeaders, request_id: str) -> pb.HttpHead:
    """The request's head as a replica gets it."""
    flat = headers.flat
    flat += (b"x-request-id", request_id.encode("latin-1", "replace"))
    connection = scope.get("serve_rt.connection")
    flat += connection.forwarded if connection is not None else (b"x-forwarded-proto", scope["scheme"].encode())
    if headers.host:
        flat += (b"x-forwarded-host", headers.host)
    client, server = scope.get("client"), scope.get("server")
    return pb.HttpHead(
        type=scope["type"],
        method=scope.get("method", ""),
        path=scope["path"],
        raw_path=scope["raw_path"],
        query_string=scope["query_string"],
        root_path=target.root_path,
        scheme=scope["scheme"],
        http_version=scope["http_version"],
        headers=flat,
        client_host=client[0] if client else "",
        client_port=client[1] if client else 0,
        server_host=server[0] if server else "",
        server_port=(server[1] or 0) if server else 0,
        subprotocols=scope.get("subprotocols") or (),
    )


async def _downward(exchange: Exchange, send: Send, request_id: str, outcome: _Outcome) -> None:
    head = await exchange.read()
    if not isinstance(head, pb.Head):
        raise ServeException("the replica answered a WebSocket without a head")
    headers = response_headers(head.headers, request_id.encode("latin-1", "replace"))
    if head.status != 101:
        outcome.status = head.status
        await _relay_denial(exchange, head, headers, send)
        return
    await send({"type": "websocket.accept", "subprotocol": head.subprotocol or None, "headers": headers})
    while (part := await exchange.read()) is not None:
        assert isinstance(part, Data)
        if part.kind == pb.DATA_KIND_WS_TEXT:
            await send({"type": "websocket.send", "text": part.payload.decode()})
        elif part.kind == pb.DATA_KIND_WS_BINARY:
            await send({"type": "websocket.send", "bytes": part.payload})
        elif part.kind == pb.DATA_KIND_WS_CLOSE:
            outcome.status = part.code or 1000
            await send({"type": "websocket.close", "code": part.code or 1000, "reason": part.reason})
            return
    if outcome.status == _INTERNAL_ERROR:  # neither side has closed it: the application has just ended
        outcome.status = 1000


async def _relay_denial(exchange: Exchange, head: pb.Head, headers: list[tuple[bytes, bytes]], send: Send) -> None:
    await send({"type": "websocket.http.response.start", "status": head.status, "headers": headers})
    ended, body = head.end, head.body
    while not ended:
        part = await exchange.read()
        if not isinstance(part, Data):
            break
        body, ended = body + part.payload, part.end
    await send({"type": "websocket.http.response.body", "body": body})


async def _deny(send: Send, answer: Answer, outcome: _Outcome) -> None:
    outcome.status = answer.status
    await send({"type": "websocket.http.response.start", "status": answer.status, "headers": answer.headers(b"")})
    await send({"type": "websocket.http.response.body", "body": answer.body.encode()})


async def _close_after(
    error: ServeException, exchange: Exchange, send: Send, request_id: str, outcome: _Outcome
) -> None:
    try:
        if exchange.answer_began:
            outcome.status = _INTERNAL_ERROR
            await send({"type": "websocket.close", "code": _INTERNAL_ERROR, "reason": ""})
        else:
            await _deny(send, answer_for(error, request_id, None), outcome)
    except Exception as late:  # uvicorn raises whatever it likes when the client has left meanwhile
        log.debug("websocket was gone: %s", late)
