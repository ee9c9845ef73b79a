"""uvicorn's httptools protocol, with the limits it lacks and word of a client that left.

Measured without: 50 MB of headers were taken in, a connection that says nothing was never closed, requests without or
with two Host headers were served. Everything else (framing, smuggling, keep-alive) is uvicorn's and llhttp's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from serve_rt.proxy.answers import raw_answer
from serve_rt.proxy.limits import Limits
from serve_rt.proxy.open_encoding import fixed_part
from serve_rt.proxy.routes import Target

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application

    from serve_rt.proxy.http_server import HttpServer

Headers = list[tuple[bytes, bytes]]
_FORBIDDEN = bytes({*range(32), 127} - {*b"\t\r\n"})


class ProxyHttpProtocol(HttpToolsProtocol):
    """One connection. `HttpServer` makes a subclass whose class attributes name its limits and itself."""

    limits: Limits
    http_server: HttpServer

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],  # Any: uvicorn's
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.on_gone: Callable[[], object] | None = None
        """Called when the client has left; set while a request runs (serve_rt.proxy.forward)."""
        self.forwarded: tuple[bytes, ...] = ()
        self._fixed: tuple[Target, tuple[bytes, bytes]] | None = None
        self._in_head = False
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._refusal = 0
        self._parsing = False
        self._read: RequestResponseCycle | None = None

    # --- the connection -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        host = self.client[0] if self.client else ""
        scheme = self.scheme or "http"
        self.forwarded = (b"x-forwarded-for", host.encode("latin-1"), b"x-forwarded-proto", scheme.encode())
        if len(self.connections) > self.limits.connections:
            self._refuse(503)
            return
        self._head_timer = self.loop.call_later(self.limits.head_timeout_s, self._head_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        super().connection_lost(exc)
        gone, self.on_gone = self.on_gone, None
        if gone is not None:
            gone()

    def data_received(self, data: bytes) -> None:
        if self._refusal or self.parser is None:
            return
        self._unset_keepalive_if_required()
        if self._head_timer is not None:
            self._stop_head_timer()
        self._parsing = True
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self._refuse(self._refusal or 400)
            return
        except httptools.HttpParserUpgrade:
            if self._should_upgrade():
                self.handle_websocket_upgrade()
                return
            # An upgrade we do not offer is ignored, as RFC 9110 allows: the request is served over HTTP/1.1.
        finally:
            self._parsing = False
        cycle, self._read = self._read, None
        if cycle is not None:
            self._begin(cycle)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > self.limits.header_bytes:
                self._refuse(414 if not self.headers and len(self.url) == 0 else 431)
            else:
                self._head_timer = self.loop.call_later(self.limits.head_timeout_s, self._head_late)

    # --- parser callbacks: what they raise ends the request with _refusal ------------------------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = 0
        self.scope["serve_rt.connection"] = self  # type: ignore[typeddict-unknown-key]  # ASGI allows own keys

    def on_url(self, url: bytes) -> None:
        self.url += url
        if len(self.url) > self.limits.url_bytes:
            self._stop_parsing(414)

    def on_headers_complete(self) -> None:
        self._in_head = False
        hosts = size = 0
        for name, value in self.headers:
            size += len(name) + len(value)
            if name == b"host":
                hosts += 1
        if len(self.headers) > self.limits.header_count or size > self.limits.header_bytes:
            self._stop_parsing(431)
        if hosts > 1 or (not hosts and self.parser.get_http_version() != "1.0"):
            self._stop_parsing(400)
        try:
            super().on_headers_complete()
        except (UnicodeDecodeError, httptools.HttpParserInvalidURLError):
            self._stop_parsing(400)
        if self.http_server.draining and self.cycle is not None:
            self.cycle.keep_alive = False

    def _stop_parsing(self, status: int) -> None:
        self._refusal = status
        raise ValueError(status)

    # --- refusing -------------------------------------------------------------------------------------------------

    def _refuse(self, status: int) -> None:
        """Answer and close. A request that is being answered is not spoken over: its connection is cut."""
        self._refusal = status
        self._stop_head_timer()
        busy = self.cycle is not None and not self.cycle.response_complete and self._read is None
        self._read = None
        if not busy and not self.transport.is_closing():
            self.transport.write(raw_answer(status))
        self.http_server.refused += 1
        self.transport.close()

    def _head_late(self) -> None:
        self._head_timer = None
        if self._in_head:
            self._refuse(408)
        elif not self.transport.is_closing():
            self.transport.close()  # it never said anything

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def fixed_part(self, target: Target) -> tuple[bytes, bytes]:
        """See open_encoding: kept for as long as the connection asks for the same application."""
        if self._fixed is None or self._fixed[0] is not target:
            self._fixed = target, fixed_part(cast(dict[str, Any], self.scope), target, self.forwarded)
        return self._fixed[1]

    # --- answering ------------------------------------------------------------------------------------------------

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """A request's head was read. Its body may stand in the same bytes: it begins when all of them were parsed."""
        cycle.scope["serve_rt.cycle"] = cycle  # type: ignore[typeddict-unknown-key]  # ASGI allows own keys
        if self._parsing:
            self._read = cycle
        else:
            self._begin(cycle)

    def _begin(self, cycle: RequestResponseCycle) -> None:
        if cycle.more_body or not self.http_server.begin(cast(dict[str, Any], cycle.scope)):
            super()._start_asgi_task(cycle, self.app)

    def run(self, cycle: RequestResponseCycle, app: Callable[[Any, Any, Any], Awaitable[None]]) -> None:
        """Let `app` write the answer of a request that was begun, in a task. Any: ASGI, in uvicorn's words."""
        super()._start_asgi_task(cycle, app)

    def write_whole(self, cycle: RequestResponseCycle, status: int, headers: Headers, body: bytes) -> bool:
        """A whole answer in one write (uvicorn's `send` makes two, and each costs a system call); False when this is
        not the time for it and `send` must do. The headers have a content-length that is right.

        *Errors*: ValueError for a header that could break out of its line.
        """
        if self.flow.write_paused or cycle.disconnected or cycle.response_started:
            return False
        head = STATUS_LINE[status] + b"".join([b"%b: %b\r\n" % header for header in headers])
        lines = len(headers) + 1
        if (
            head.count(b"\n") != lines
            or head.count(b"\r") != lines
            or len(head.translate(None, _FORBIDDEN)) != len(head)
        ):
            raise ValueError("a response header holds a control character")
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        last = b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n"
        self.transport.write(b"".join((head, last, body)))
        cycle.message_event.set()
        if not cycle.keep_alive:
            self.transport.close()
        cycle.on_response()
        del cycle.scope["serve_rt.cycle"]  # type: ignore[typeddict-item]  # or each request would be a cycle of references
        return True

    def reset(self) -> None:
        """Cut the connection so that no client can take what it got for the whole answer."""
        self.transport.abort()
