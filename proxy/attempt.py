"""One client's request while the proxy has it: what was asked, and how its answer is written.

Made and driven by serve_rt.proxy.forward. Everything that needs no waiting is a plain method: the usual request is
opened and answered without a task of its own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from serve_rt.errors import BackPressureError, ServeException
from serve_rt.observe.line_budget import LineBudget
from serve_rt.pb import stream_pb2 as pb
from serve_rt.proxy.answers import Answer, answer_for
from serve_rt.proxy.headers import RequestHeaders, read_headers, response_headers
from serve_rt.proxy.open_encoding import fixed_part, open_of_request
from serve_rt.proxy.request_ids import RequestIds
from serve_rt.proxy.routes import Target
from serve_rt.routing import Exchange, Outgoing
from serve_rt.transport.data import Data

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    from serve_rt.proxy.http_protocol import ProxyHttpProtocol

log = logging.getLogger(__name__)

Scope = dict[str, Any]  # Any: ASGI says so
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

RETRY_SAFE_METHODS = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})
_BODILESS = frozenset({204, 304})


class Answered(ServeException):
    """The proxy itself ends a request whose body broke a rule."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.body)
        self.answer = answer


class Attempt:
    __slots__ = (
        "_began",
        "_own_timeouts_s",
        "_receive",
        "_scope",
        "_send",
        "began_s",
        "connection",
        "counted",
        "exchange",
        "headers",
        "method",
        "request_id",
        "status",
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
        self.connection: ProxyHttpProtocol | None = scope.get("serve_rt.connection")
        """None under a server of somebody else's (tests)."""
        self._scope, self._receive, self._send = scope, receive, send
        self._began = False
        self.began_s = time.monotonic()
        self.counted = False
        self.status = 0
        """Of the answer that the client got, or the beginning of it."""

    # --- the question ---------------------------------------------------------------------------------------------

    def read_head(self, ids: RequestIds, timeout_s: float | None) -> RequestHeaders:
        """*Errors*: ConfigError for a header that makes no sense."""
        self.headers = headers = read_headers(self._scope["headers"])
        self.request_id = headers.request_id or ids.next()
        self._own_timeouts_s = (headers.timeout_s, timeout_s)
        self.timeout_s = _nearest(headers.timeout_s, self.target.app.request_timeout_s, timeout_s)
        return headers

    def deadline(self) -> float | None:
        return time.monotonic() + self.timeout_s if self.timeout_s is not None else None

    def outgoing(self, body: bytes, ended: bool, deadline: float | None) -> Outgoing:
        target, headers = self.target, self.headers
        return Outgoing(
            None,
            None,
            body,
            ended,
            self.request_id,
            deadline,
            target.app.queue_timeout_s,
            self._retry_safe(),
            target.app.name,
            target.prefix,
            headers.multiplexed_model_id,
            headers.session_id,
            self._opened(),
            self.began_s,
            self._own_timeouts_s,
        )

    def _retry_safe(self) -> bool:
        deployment = self.target.deployment
        if deployment is not None and deployment.retry_safe is not None:
            return deployment.retry_safe
        return self.method in RETRY_SAFE_METHODS or self.headers.idempotent

    def _opened(self) -> bytes:
        """The request's head, as it goes on."""
        connection = self.connection
        fixed = (
            connection.fixed_part(self.target)
            if connection is not None
            else fixed_part(self._scope, self.target, (b"x-forwarded-proto", self._scope["scheme"].encode()))
        )
        return open_of_request(self._scope, self.headers, self._id_bytes, fixed)

    def body_at_hand(self) -> bytes | None:
        """The whole body when it came in with the head and its length was announced: nothing to wait for, and no timer
        (measured: 6 of 80 µs). Its size was compared with the limits by its announced length."""
        cycle = self._scope.get("serve_rt.cycle")
        if cycle is None or cycle.more_body or cycle.disconnected or not self.headers.content_length:
            return None
        body, cycle.body = bytes(cycle.body), bytearray()
        if self.connection is not None:
            self.connection.read_on()
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

    # --- the answer -----------------------------------------------------------------------------------------------

    def write_whole(self, part: pb.Head | Data | None) -> bool:
        """Write an answer that came in one part; False when it did not, or must be told in several messages."""
        if not isinstance(part, pb.Head) or not part.end or self.method == "HEAD" or part.status in _BODILESS:
            return False
        connection = self.connection
        if connection is None:
            return False
        headers = response_headers(part.headers, self._id_bytes)
        body = part.body
        _set_length(headers, len(body))
        if not connection.write_whole(self.cycle, part.status, headers, body):
            return False
        self._began = True
        self.status = part.status
        return True

    async def relay(self, exchange: Exchange, first: pb.Head | Data | None) -> None:
        """The answer, part by part, as it comes."""
        if self.write_whole(first):
            return
        head = first
        if not isinstance(head, pb.Head):
            raise ServeException("the replica answered without a head")
        body = head.body
        headers = response_headers(head.headers, self._id_bytes)
        if head.end and self.method != "HEAD" and head.status not in _BODILESS:
            _set_length(headers, len(body))
        self._began = True
        self.status = head.status
        if self.connection is not None and any(name == b"date" for name, _ in headers):
            self.cycle.default_headers = []  # uvicorn's: our own date
        await self._send({"type": "http.response.start", "status": head.status, "headers": headers})
        if head.end:
            await self._send({"type": "http.response.body", "body": body})
            return
        if body:
            await self._send({"type": "http.response.body", "body": body, "more_body": True})
        while (part := await exchange.read()) is not None:
            assert isinstance(part, Data)
            await self._send({"type": "http.response.body", "body": part.payload, "more_body": not part.end})

    async def answer(self, answer: Answer, *, close: bool = False) -> None:
        """An answer of the proxy's own."""
        if close and self.connection is not None:
            self.cycle.keep_alive = False
        if self.answer_at_once(answer):
            return
        self._began = True
        self.status = answer.status
        extra = [(b"connection", b"close")] if close else []
        await respond(self._send, self._scope, answer, self._id_bytes, extra)

    def answer_at_once(self, answer: Answer) -> bool:
        """The same without waiting; False when that is not possible."""
        connection = self.connection
        if connection is None:
            return False
        body = b"" if self.method == "HEAD" else answer.body.encode()
        self._began = connection.write_whole(self.cycle, answer.status, answer.headers(self._id_bytes), body)
        if self._began:
            self.status = answer.status
        return self._began

    def failed(self, error: ServeException, lines: LineBudget) -> Answer | None:
        """Note a failure; the answer that the client should get, None when it got the beginning of another."""
        answer = error.answer if isinstance(error, Answered) else None
        if answer is not None and self.connection is not None:
            self.cycle.keep_alive = False  # there is more of the body that nobody wants
        answer = answer or answer_for(error, self.request_id, self.timeout_s)
        fields = {**self.fields(), "status": answer.status, "action": "request_failed"}
        if not isinstance(error, BackPressureError):
            log.warning("%s", error, extra=fields)
        elif lines.spend():
            log.info("%s", error, extra=fields)
        self.cancel("the request failed")
        if not self._began:
            return answer
        self.reset()
        return None

    def cancel(self, reason: str) -> None:
        if self.exchange is not None:
            self.exchange.cancel(reason)

    def reset(self) -> None:
        if self.connection is None:
            raise ConnectionResetError("the answer broke off")  # uvicorn closes the connection
        self.connection.reset()

    @property
    def cycle(self) -> RequestResponseCycle:
        """uvicorn's, of a request that came over a `connection`."""
        cycle: RequestResponseCycle = self._scope["serve_rt.cycle"]
        return cycle

    @property
    def _id_bytes(self) -> bytes:
        return self.request_id.encode("latin-1", "replace")

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


def _set_length(headers: list[tuple[bytes, bytes]], size: int) -> None:
    """*Errors*: ServeException when the application announced another length than it sent."""
    for name, value in headers:
        if name == b"content-length":
            if value != b"%d" % size:
                raise ServeException(f"the application announced {value!r} bytes and sent {size}")
            return
    headers.append((b"content-length", b"%d" % size))


def _nearest(*timeouts_s: float | None) -> float | None:
    given = [timeout_s for timeout_s in timeouts_s if timeout_s is not None]
    return min(given) if given else None
