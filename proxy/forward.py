"""One HTTP request to a replica and its answer back. The walk's middle: serve_rt.routing.router is next.

The body is taken in to the end, or up to `body_buffer_bytes`, before a slot is asked for; a longer one is streamed
while the slot is held. A client that leaves cancels the task that runs this, wherever it waits. After the first byte
of an answer a failure resets the connection: a cut answer never looks complete.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from serve_rt.errors import BackPressureError, ConfigError, ServeException
from serve_rt.pb import stream_pb2 as pb
from serve_rt.proxy.answers import CLIENT_CLOSED, Answer, answer_for, body_too_slow, too_large
from serve_rt.proxy.headers import RequestHeaders, read_headers, response_headers
from serve_rt.proxy.limits import Limits
from serve_rt.proxy.open_encoding import fixed_part, open_of_request
from serve_rt.proxy.routes import Target
from serve_rt.routing import Exchange, Outgoing, Routers

log = logging.getLogger(__name__)

Scope = dict[str, Any]  # Any: ASGI says so
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

RETRY_SAFE_METHODS = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})
_BODILESS = frozenset({204, 304})


class ClientGone(Exception):
    """The client closed its connection while its body was being read."""


class Forward:
    def __init__(self, routers: Routers, limits: Limits, timeout_s: float | None) -> None:
        self.requests = 0
        self.left = 0
        """Clients that did not wait for their answer."""
        self._routers, self._limits, self._timeout_s = routers, limits, timeout_s
        self._ids = RequestIds()

    async def __call__(self, target: Target, scope: Scope, receive: Receive, send: Send) -> None:
        self.requests += 1
        connection = scope.get("serve_rt.connection")
        leave: Callable[[], object] | None = None
        if connection is not None:
            task = asyncio.current_task()
            assert task is not None
            connection.on_gone = leave = task.cancel
        attempt = _Attempt(target, scope, receive, send)
        try:
            await self._run(attempt)
        except asyncio.CancelledError:
            # The client has left (or the proxy ends, and then there is nobody to answer either).
            self.left += 1
            attempt.cancel("the client left")
            log.info("client left", extra={**attempt.fields(), "status": CLIENT_CLOSED})
        except ClientGone:
            self.left += 1
            attempt.cancel("the client left")
        except ServeException as error:
            await attempt.failed(error)
        finally:
            if connection is not None and connection.on_gone is leave:  # else a pipelined request has begun meanwhile
                connection.on_gone = None

    async def _run(self, attempt: _Attempt) -> None:
        target = attempt.target
        try:
            headers = attempt.read_head(self._ids)
        except ConfigError as error:
            await attempt.answer(Answer(400, str(error)))
            return
        app = target.app
        timeout_s = _nearest(headers.timeout_s, app.request_timeout_s, self._timeout_s)
        attempt.timeout_s = timeout_s
        deadline = time.monotonic() + timeout_s if timeout_s is not None else None
        body, ended = b"", True
        if headers.has_body:
            if headers.content_length > app.max_body_bytes:
                await attempt.answer(too_large(app.max_body_bytes))
                return
            at_hand = attempt.body_at_hand()
            if at_hand is None:
                taken = await self._take_body(attempt, app.body_buffer_bytes, app.max_body_bytes, deadline)
                if taken is None:
                    return
                body, ended = taken
            else:
                body = at_hand
        request = Outgoing(
            None,
            None,
            body,
            ended,
            attempt.request_id,
            deadline,
            app.queue_timeout_s,
            _retry_safe(target, attempt.method, headers),
            app.name,
            target.prefix,
            headers.multiplexed_model_id,
            headers.session_id,
            attempt.opened(),
        )
        exchange = attempt.exchange = await self._routers.router(target.key).send(request)
        if ended:
            await attempt.relay(exchange)
        else:
            await self._relay_both_ways(attempt, exchange, len(body), app.max_body_bytes)

    # --- bodies ---------------------------------------------------------------------------------------------------

    async def _take_body(
        self, attempt: _Attempt, buffer_bytes: int, max_bytes: int, deadline: float | None
    ) -> tuple[bytes, bool] | None:
        """The body so far and whether it is all; None when the request was answered."""
        pieces: list[bytes] = []
        size = 0
        pause_s = self._limits.body_pause_s
        message = await attempt.receive_within(pause_s, deadline)
        while True:
            if message is None:
                await attempt.answer(body_too_slow(pause_s))
                return None
            if message["type"] == "http.disconnect":
                raise ClientGone
            pieces.append(message.get("body", b""))
            size += len(pieces[-1])
            if size > max_bytes:
                await attempt.answer(too_large(max_bytes), close=True)
                return None
            if not message.get("more_body", False):
                return (pieces[0] if len(pieces) == 1 else b"".join(pieces)), True
            if size >= buffer_bytes:
                return b"".join(pieces), False
            message = await attempt.receive_within(pause_s, deadline)

    async def _relay_both_ways(self, attempt: _Attempt, exchange: Exchange, size: int, max_bytes: int) -> None:
        """The answer may begin, and end, before the body does."""
        upload = asyncio.create_task(self._upload(attempt, exchange, size, max_bytes), name="request body")
        try:
            await attempt.relay(exchange)
        finally:
            upload.cancel()
            await asyncio.gather(upload, return_exceptions=True)

    async def _upload(self, attempt: _Attempt, exchange: Exchange, size: int, max_bytes: int) -> None:
        while True:
            await exchange.send_ready()
            message = await attempt.receive_within(self._limits.body_pause_s, None)
            if message is None:
                exchange.fail(_Answered(body_too_slow(self._limits.body_pause_s)))
                return
            if message["type"] == "http.disconnect":
                return  # on_gone, or the end of the answer, says the rest
            payload = message.get("body", b"")
            size += len(payload)
            if size > max_bytes:
                exchange.fail(_Answered(too_large(max_bytes)))
                return
            more = message.get("more_body", False)
            exchange.send(payload, end=not more)
            if not more:
                return


class _Answered(ServeException):
    """The proxy itself ends a request whose body broke a rule."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.body)
        self.answer = answer


class _Attempt:
    """One client's request while the proxy has it."""

    __slots__ = (
        "_began",
        "_receive",
        "_scope",
        "_send",
        "exchange",
        "headers",
        "method",
        "request_id",
        "target",
        "timeout_s",
    )

    def __init__(self, target: Target, scope: Scope, receive: Receive, send: Send) -> None:
        self.target = target
        self.exchange: Exchange | None = None
        self.request_id = ""
        self.headers = RequestHeaders()
        self.method: str = scope["method"]
        self.timeout_s: float | None = None
        self._scope, self._receive, self._send = scope, receive, send
        self._began = False

    def read_head(self, ids: RequestIds) -> RequestHeaders:
        self.headers = headers = read_headers(self._scope["headers"])
        self.request_id = headers.request_id or ids.next()
        return headers

    def opened(self) -> bytes:
        """The request's head, as it goes on."""
        connection = self._scope.get("serve_rt.connection")
        fixed = (
            connection.fixed_part(self.target)
            if connection is not None
            else fixed_part(self._scope, self.target, (b"x-forwarded-proto", self._scope["scheme"].encode()))
        )
        return open_of_request(self._scope, self.headers, self.request_id.encode("latin-1", "replace"), fixed)

    def body_at_hand(self) -> bytes | None:
        """The whole body when it came in with the head and its length was announced: nothing to wait for, and no timer
        (measured: 6 of 80 µs). Its size was compared with the limits by its announced length."""
        cycle = self._scope.get("serve_rt.cycle")
        if cycle is None or cycle.more_body or cycle.disconnected or not self.headers.content_length:
            return None
        body, cycle.body = bytes(cycle.body), bytearray()
        cycle.flow.resume_reading()
        return body

    async def receive_within(self, pause_s: float, deadline: float | None) -> dict[str, Any] | None:
        """The next message of the body, None when it takes too long. A body that is here costs no timer."""
        if deadline is not None:
            pause_s = min(pause_s, max(0.0, deadline - time.monotonic()))
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        late = False

        def give_up() -> None:
            nonlocal late
            late = True
            task.cancel()

        timer = loop.call_later(pause_s, give_up)
        try:
            return await self._receive()
        except asyncio.CancelledError:
            if late and task.uncancel() == 0:
                return None
            raise
        finally:
            timer.cancel()

    async def relay(self, exchange: Exchange) -> None:
        """The answer, part by part, as it comes."""
        head = await exchange.read()
        if not isinstance(head, pb.Head):
            raise ServeException("the replica answered without a head")
        body = head.body
        headers = response_headers(head.headers, self.request_id.encode("latin-1", "replace"))
        if head.end and self.method != "HEAD" and head.status not in _BODILESS:
            self._set_length(headers, len(body))
            connection = self._scope.get("serve_rt.connection")
            if connection is not None and connection.write_whole(
                self._scope["serve_rt.cycle"], head.status, headers, body
            ):
                self._began = True
                return
        self._began = True
        await self._send({"type": "http.response.start", "status": head.status, "headers": headers})
        if head.end:
            await self._send({"type": "http.response.body", "body": body})
            return
        if body:
            await self._send({"type": "http.response.body", "body": body, "more_body": True})
        while (part := await exchange.read()) is not None:
            assert isinstance(part, pb.Data)
            await self._send({"type": "http.response.body", "body": part.payload, "more_body": not part.end})

    @staticmethod
    def _set_length(headers: list[tuple[bytes, bytes]], size: int) -> None:
        """*Errors*: ServeException when the application announced another length than it sent."""
        for name, value in headers:
            if name == b"content-length":
                if value != b"%d" % size:
                    raise ServeException(f"the application announced {value!r} bytes and sent {size}")
                return
        headers.append((b"content-length", b"%d" % size))

    async def answer(self, answer: Answer, *, close: bool = False) -> None:
        self._began = True
        extra = [(b"connection", b"close")] if close else []
        await respond(self._send, self._scope, answer, self.request_id.encode("latin-1", "replace"), extra)

    async def failed(self, error: ServeException) -> None:
        answer = error.answer if isinstance(error, _Answered) else None
        answer = answer or answer_for(error, self.request_id, self.timeout_s)
        level = logging.INFO if isinstance(error, BackPressureError) else logging.WARNING
        log.log(level, "%s", error, extra={**self.fields(), "status": answer.status, "action": "request_failed"})
        self.cancel("the request failed")
        if self._began:
            self.reset()
        else:
            await self.answer(answer)

    def cancel(self, reason: str) -> None:
        if self.exchange is not None:
            self.exchange.cancel(reason)

    def reset(self) -> None:
        connection = self._scope.get("serve_rt.connection")
        if connection is None:
            raise ConnectionResetError("the answer broke off")  # uvicorn closes the connection
        connection.reset()

    def fields(self) -> dict[str, str]:
        replica = self.exchange.replica_id if self.exchange is not None else ""
        return {
            "request_id": self.request_id,
            "method": self.method,
            "path": self._scope["path"],
            "app": self.target.app.name,
            "replica": replica or "-",
        }


async def respond(
    send: Send,
    scope: Scope,
    answer: Answer,
    request_id: bytes,
    extra: Sequence[tuple[bytes, bytes]] = (),
) -> None:
    """Send an answer of the proxy's own."""
    headers = [*answer.headers(request_id), *extra]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    body = b"" if scope.get("method") == "HEAD" else answer.body.encode()
    await send({"type": "http.response.body", "body": body})


class RequestIds:
    """UUIDs, as callers expect them: a random half of this process, and a count."""

    def __init__(self) -> None:
        text = f"{random.SystemRandom().getrandbits(64):016x}"
        self._start = f"{text[:8]}-{text[8:12]}-4{text[13:]}-"
        self._count = random.SystemRandom().getrandbits(62)

    def next(self) -> str:
        self._count = (self._count + 1) & _LOW_62_BITS
        text = f"{self._count | 2 << 62:016x}"
        return f"{self._start}{text[:4]}-{text[4:]}"


_LOW_62_BITS = (1 << 62) - 1


def _retry_safe(target: Target, method: str, headers: RequestHeaders) -> bool:
    said = target.deployment.retry_safe if target.deployment is not None else None
    return said if said is not None else method in RETRY_SAFE_METHODS or headers.idempotent


def _nearest(*timeouts_s: float | None) -> float | None:
    given = [timeout_s for timeout_s in timeouts_s if timeout_s is not None]
    return min(given) if given else None
