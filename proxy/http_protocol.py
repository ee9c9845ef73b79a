"""uvicorn's httptools protocol: stricter, with the limits it lacks, and with word of a client that left.

Measured without: 50 MB of headers were taken in, a connection that says nothing was never closed, requests without or
with two Host headers were served, trailers were taken for headers, a body was read to its end after its 413. Framing is
llhttp's; what llhttp takes although two readers may understand it differently is refused here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle
from uvicorn.server import ServerState

from serve_rt.proxy.answers import raw_answer
from serve_rt.proxy.arrivals import Arrivals
from serve_rt.proxy.closing import DISCARDED_BYTES, BoundedClosing
from serve_rt.proxy.grammar import is_host, names_host
from serve_rt.proxy.hang_ups import HangUps, WatchedFlow
from serve_rt.proxy.open_encoding import fixed_part
from serve_rt.proxy.routes import Target

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application

    from serve_rt.proxy.http_server import HttpServer

Headers = list[tuple[bytes, bytes]]
_LINGERING = 256
"""So many above the limit are told so; the others are cut."""
_FRAMING_SHARE = 16
"""Chunk sizes, extensions and trailers may be so many times as long as what they frame: one byte in a chunk costs 5."""
_FORBIDDEN = bytes({*range(32), 127} - {*b"\t\r\n"})
_LOOKED_AT = frozenset({b"host", b"expect", b"transfer-encoding", b"upgrade"})


class ProxyHttpProtocol(BoundedClosing):
    """One connection. `HttpServer` makes a subclass whose class attributes name its limits and itself."""

    http_server: HttpServer
    arrivals: Arrivals
    hang_ups: HangUps

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],  # Any: uvicorn's
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.flow: WatchedFlow  # made with the connection
        self.on_gone: Callable[[], object] | None = None
        """Called when the client has left; set while a request runs (serve_rt.proxy.forward)."""
        self.forwarded: tuple[bytes, ...] = ()
        self._fixed: tuple[Target, tuple[bytes, bytes]] | None = None
        self._head_bytes = self._read_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._in_head = self._upgrade = self._parsing = False
        self._hosts = 0
        self._host = b""
        self._coding: bytes | None = None
        self._read: RequestResponseCycle | None = None
        self._framing_bytes = 0

    # --- the connection -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        self.flow = WatchedFlow(transport, self.hang_ups)
        host = self.client[0] if self.client else ""
        scheme = self.scheme or "http"
        self.forwarded = (b"x-forwarded-for", host.encode("latin-1"), b"x-forwarded-proto", scheme.encode())
        if len(self.connections) > self.limits.connections:
            self._refuse(503)
            if len(self.connections) > self.limits.connections + _LINGERING:
                transport.abort()
            return
        self._head_timer = self.loop.call_later(self.limits.head_timeout_s, self._head_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        self._reads_again()
        self._unset_keepalive_if_required()
        self.flow.closed()
        super().connection_lost(exc)
        gone, self.on_gone = self.on_gone, None
        if gone is not None:
            gone()

    def data_received(self, data: bytes) -> None:
        if self.arrivals.holding:
            self.arrivals.hold(self, data)
            return
        if self._refusal or self.parser is None:
            self._discard(len(data))
            return
        self._read_bytes = len(data)
        self._parsing = True
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self._refuse(self._refusal or 400)
            return
        except httptools.HttpParserUpgrade:
            self._reads_again()
            self.handle_websocket_upgrade()
            return
        finally:
            self._parsing = False
        cycle, self._read = self._read, None
        if cycle is not None:
            self._begin(cycle)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > self.limits.header_bytes:
                self._refuse(414 if not self.headers and len(self.url) == 0 else 431)
            elif self._head_timer is None:
                self._head_timer = self.loop.call_later(self.limits.head_timeout_s, self._head_late)
        elif self._coding is not None:
            self._count_framing(len(data))

    def _feed(self, data: bytes) -> None:
        """An upgrade that we do not offer is ignored, as RFC 9110 allows: what follows it is HTTP/1.1 still."""
        while True:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                if self._should_upgrade():
                    raise
                data = data[upgrade.args[0] :]
                if not data:
                    return

    # --- parser callbacks: what they raise ends the request with _refusal ------------------------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = self._hosts = 0
        self._coding = None
        self._upgrade = False
        if self.timeout_keep_alive_task is not None:
            self._unset_keepalive_if_required()
        self.scope["serve_rt.connection"] = self  # type: ignore[typeddict-unknown-key]  # ASGI allows own keys

    def on_url(self, url: bytes) -> None:
        self.url += url
        if len(self.url) > self.limits.url_bytes:
            self._stop_parsing(414)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return  # a trailer: nobody was promised it, and it must not look like a header
        name = name.lower()
        if value and value[-1] <= 32:  # llhttp leaves blanks at the end, which are no part of the value
            value = value.rstrip(b" \t")
        if name in _LOOKED_AT:
            if value == self._host and name == b"host":
                self._hosts += 1  # the same as in this connection's last request
            else:
                self._look_at(name, value)
        self.headers.append((name, value))

    def _look_at(self, name: bytes, value: bytes) -> None:
        if name == b"host":
            self._hosts += 1
            self._host = value = value.strip(b" \t")
            if not is_host(value):
                self._stop_parsing(400)
        elif name == b"expect":
            self.expect_100_continue = value.lower() == b"100-continue"
        elif name == b"upgrade":
            self._upgrade = True
        elif self._coding is not None or value.lower() != b"chunked":
            self._stop_parsing(400)  # llhttp takes `gzip, chunked`, and no replica would know of the gzip
        else:
            self._coding = value

    def on_headers_complete(self) -> None:
        limits = self.limits
        if len(self.headers) > limits.header_count:
            self._stop_parsing(431)
        if self._head_bytes + self._read_bytes > limits.header_bytes:  # else all that was read is less
            self._check_size()
        self._check_head()
        self._in_head = False
        if self._head_timer is not None:
            self._stop_head_timer()
        if self.timeout_keep_alive_task is not None:
            self._unset_keepalive_if_required()
        self._framing_bytes = self._discarded_bytes = 0
        try:
            super().on_headers_complete()
        except (UnicodeDecodeError, httptools.HttpParserInvalidURLError):
            self._stop_parsing(400)
        if self.scope["method"] == "CONNECT":
            self._stop_parsing(400)
        if self.http_server.draining and self.cycle is not None:
            self.cycle.keep_alive = False

    def _check_size(self) -> None:
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > self.limits.header_bytes:
            self._stop_parsing(431)

    def _check_head(self) -> None:
        """What llhttp lets pass, and two readers could understand in two ways."""
        version = self.parser.get_http_version()
        if version != "1.1":
            if version != "1.0" or self._coding is not None:
                self._stop_parsing(400)
            if self._hosts > 1:
                self._stop_parsing(400)
        elif self._hosts != 1:
            self._stop_parsing(400)
        if b"#" in self.url or (self.url[:1] != b"/" and not names_host(self.url, self._host)):
            self._stop_parsing(400)
        if self._upgrade and self.parser.should_upgrade():
            self._check_upgrade()

    def _check_upgrade(self) -> None:
        """To llhttp all that follows the head of an upgrade is another protocol: a body would be the next request."""
        if self._coding is not None or any(name == b"content-length" for name, _ in self.headers):
            self._stop_parsing(400)
        if self._should_upgrade():
            busy = self.cycle is not None and not self.cycle.response_complete
            if busy or self.parser.get_method() != b"GET" or self.parser.get_http_version() != "1.1":
                self._stop_parsing(400)

    def on_body(self, body: bytes) -> None:
        self._framing_bytes -= len(body) * _FRAMING_SHARE
        cycle = self.cycle
        if not cycle.response_complete:
            held = cast(bytes | bytearray, cycle.body)
            if not held:  # uvicorn copies what is here into a bytearray, and that into the message's bytes
                cycle.body = body  # type: ignore[assignment]  # its own bytes() of it is no copy
                body = b""
            elif isinstance(held, bytes):
                cycle.body = bytearray(held)
            super().on_body(body)
            return
        self._discarded_bytes += len(body)
        if self._discarded_bytes > DISCARDED_BYTES:
            self._stop_parsing(413)

    def on_message_complete(self) -> None:
        """As uvicorn's, which leaves `more_body` when the answer came first."""
        cycle = self.cycle
        if cycle is not None and cycle.more_body:  # else it is a WebSocket's head, and the request before it
            cycle.more_body = False
            if not cycle.response_complete:
                cycle.message_event.set()

    def _count_framing(self, size: int) -> None:
        """Of a chunked body: sizes, extensions and trailers, which llhttp reads without end."""
        self._framing_bytes += size
        if self._framing_bytes > 2 * self.limits.header_bytes and self.cycle.more_body:
            self._refuse(400)

    def _stop_parsing(self, status: int) -> None:
        self._refusal = status
        raise ValueError(status)

    # --- refusing -------------------------------------------------------------------------------------------------

    def _refuse(self, status: int) -> None:
        """Answer and close. An answer that has begun, or is another request's, is not spoken over: it is cut."""
        self._refusal = status
        self._stop_head_timer()
        self.http_server.refused += 1
        cycle, unread = self.cycle, self._read is not None
        self._read = None
        if self.transport.is_closing():
            return
        if cycle is None or (cycle.response_complete and not cycle.more_body) or unread:
            self.transport.write(raw_answer(status))
        elif not cycle.response_complete:
            if not cycle.more_body or cycle.response_started or self.pipeline:
                self.transport.close()
                self.bound_writing()
                return
            self.transport.write(raw_answer(status))
            self._give_up(cycle)
        self.linger()

    def _give_up(self, cycle: RequestResponseCycle) -> None:
        """Its body broke off, and its client was told: for whoever works on it, the client has left."""
        cycle.disconnected = True
        cycle.message_event.set()
        gone, self.on_gone = self.on_gone, None
        if gone is not None:
            gone()

    def _head_late(self) -> None:
        self._head_timer = None
        if self._in_head:
            self._refuse(408)
        elif not self.transport.is_closing():
            self.transport.close()  # it never said anything

    def linger(self) -> None:
        self._stop_head_timer()
        super().linger()

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
        """A request's head was read. Its body may stand in the same bytes: it begins when all of them were parsed. One
        that waited in the pipeline has a turn of its own: a thousand refused ones would be a thousand calls deep."""
        cycle.scope["serve_rt.cycle"] = cycle  # type: ignore[typeddict-unknown-key]  # ASGI allows own keys
        if self._parsing:
            self._read = cycle
        else:
            self.read_on()
            self.loop.call_soon(self._begin_unless_gone, cycle)

    def _begin_unless_gone(self, cycle: RequestResponseCycle) -> None:
        if not self.transport.is_closing():
            self._begin(cycle)

    def read_on(self) -> None:
        """Unless requests wait in the pipeline: each answer would let thousands more in."""
        if self.pipeline:
            self.flow.pause_reading()
        else:
            self.flow.resume_reading()

    def _begin(self, cycle: RequestResponseCycle) -> None:
        if not self.http_server.begin(cast(dict[str, Any], cycle.scope)):
            self.run(cycle, self.app)

    def run(self, cycle: RequestResponseCycle, app: Callable[[Any, Any, Any], Awaitable[None]]) -> None:
        """Let `app` write the answer of a request that was begun, in a task. Any: ASGI, in uvicorn's words."""
        cycle.on_response = self.on_response_in_a_task
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
        if b"\r\ndate: " not in head:
            head += self.http_server.date_line
        self._write(cycle, head, body)
        return True

    def write_refusal(self, cycle: RequestResponseCycle, head: bytes, body: bytes) -> bool:
        """The same for what `turning_away` says; without its date."""
        if self.flow.write_paused or cycle.disconnected or cycle.response_started:
            return False
        self.arrivals.refused()
        self._write(cycle, head + self.http_server.date_line, body)
        return True

    def _write(self, cycle: RequestResponseCycle, head: bytes, body: bytes) -> None:
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        last = b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n"
        self.transport.write(b"".join((head, last, body)))
        cycle.message_event.set()
        if not cycle.keep_alive:
            if cycle.more_body:
                self.linger()
            else:
                self.transport.close()
                self.bound_writing()
        cycle.on_response()
        del cycle.scope["serve_rt.cycle"]  # type: ignore[typeddict-item]  # or each request would be a cycle of references

    def reset(self) -> None:
        """Cut the connection so that no client can take what it got for the whole answer."""
        self.transport.abort()
