"""Accepting connections, and ceasing to: the lame duck.

uvicorn's protocol classes are used without uvicorn's Server, whose shutdown breaks keep-alive connections (measured: 62
of 21,000 requests in ten restarts). A draining worker stops accepting, answers what its connections still ask with
`connection: close`, leaves idle ones open for a while, and ends when nobody is left. WebSockets and streams have the
longer time of requests that run.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Protocol

from uvicorn.config import Config
from uvicorn.server import ServerState

from serve_rt.config.protections import Protection, enabled
from serve_rt.proxy.arrivals import Arrivals
from serve_rt.proxy.hang_ups import HangUps
from serve_rt.proxy.http_protocol import ProxyHttpProtocol
from serve_rt.proxy.limits import Limits
from serve_rt.proxy.websocket_protocol import ProxyWebSocketProtocol

if TYPE_CHECKING:
    from ssl import SSLContext

log = logging.getLogger(__name__)

BACKLOG = 2048
CUT_S = 2.0
LOOK_S = 0.05


class Application(Protocol):
    def begin(self, scope: dict[str, Any]) -> bool:
        """Take a request whose body is here, or that is refused, without a task. False: nothing was done."""
        ...

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Everything else: ASGI."""
        ...


class HttpServer:
    """*Resources*: `start`, then `drain`, then nothing is left."""

    def __init__(self, app: Application, limits: Limits) -> None:
        self.draining = False
        self.date_line = b""
        self.begin = app.begin
        self.refused = 0
        """Requests that broke a limit or the grammar."""
        self._limits = limits
        self._state = ServerState()
        self._server: asyncio.Server | None = None
        self._clock: asyncio.TimerHandle | None = None
        self._hurry = asyncio.Event()
        self._hang_ups = HangUps()
        attributes = {"limits": limits, "http_server": self, "arrivals": Arrivals(), "hang_ups": self._hang_ups}
        self._protocol = type("BoundProtocol", (ProxyHttpProtocol,), attributes)
        self._config = Config(
            app,
            http=self._protocol,
            ws=type("BoundWebSocket", (ProxyWebSocketProtocol,), {"limits": limits}),
            ws_max_size=limits.websocket_message_bytes,
            lifespan="off",
            log_config=None,
            access_log=False,
            date_header=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=limits.keep_alive_timeout_s,  # type: ignore[arg-type]  # a timer takes parts of seconds
        )
        self._config.load()

    @property
    def connections(self) -> int:
        return len(self._state.connections)

    async def start(self, sock: socket.socket, tls: SSLContext | None = None) -> None:
        """Accept on `sock`, HTTPS with `tls`; returns when connections are accepted."""
        loop = asyncio.get_running_loop()
        sock.setblocking(False)
        # Connections inherit it. Without it the kernel takes in four megabytes that nobody reads before anyone waits.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, self._limits.unsent_bytes)
        self._tell_time()
        self._server = await loop.create_server(
            self._connection,
            sock=sock,
            backlog=BACKLOG,
            ssl=tls,
            ssl_handshake_timeout=self._limits.head_timeout_s if tls is not None else None,
            ssl_shutdown_timeout=CUT_S if tls is not None else None,
        )

    def _tell_time(self) -> None:
        date = formatdate(usegmt=True).encode()
        self.date_line = b"date: %b\r\n" % date
        self._state.default_headers = [(b"date", date)]
        self._clock = asyncio.get_running_loop().call_later(1.0, self._tell_time)

    def _connection(self) -> asyncio.Protocol:
        return self._protocol(self._config, self._state, {})  # type: ignore[no-any-return]  # made by type()

    def hurry(self) -> None:
        """Close idle connections now."""
        self._hurry.set()

    async def drain(self) -> bool:
        """Be a lame duck to the end; whether every request was answered."""
        self.draining = True
        if self._server is not None:
            self._server.close()  # the launcher's copy of the socket keeps the queue of unaccepted connections
        if enabled(Protection.LAME_DUCK):
            await self._be_lame()
        left = len(self._state.tasks) + sum(map(_is_busy, self._state.connections))
        for task in tuple(self._state.tasks):
            task.cancel()
        if self._state.tasks:
            await asyncio.wait(self._state.tasks, timeout=CUT_S)
        for connection in tuple(self._state.connections):
            connection.shutdown()
        if self._clock is not None:
            self._clock.cancel()
        self._hang_ups.close()
        return left == 0

    async def _be_lame(self) -> None:
        for connection in tuple(self._state.connections):
            cycle = getattr(connection, "cycle", None)
            if cycle is not None and not cycle.response_complete:
                cycle.keep_alive = False
        busy_until = asyncio.get_running_loop().time() + self._limits.drain_busy_s
        await self._wait_until_empty(self._limits.drain_s)
        for connection in tuple(self._state.connections):
            if isinstance(connection, ProxyHttpProtocol):
                connection.shutdown()  # idle: closed now; busy: closed after its answer
        self._hurry.clear()
        await self._wait_until_empty(busy_until - asyncio.get_running_loop().time())
        for connection in tuple(self._state.connections):
            if isinstance(connection, ProxyWebSocketProtocol):
                connection.shutdown()  # 1012, to both sides: the application may have last words
        if self._state.tasks:
            await asyncio.wait(self._state.tasks, timeout=CUT_S)

    async def _wait_until_empty(self, limit_s: float) -> None:
        """Looks now and then: WebSockets leave without a word to us, and a drain is in no hurry."""
        until = asyncio.get_running_loop().time() + limit_s
        while self._state.connections or self._state.tasks:
            left_s = until - asyncio.get_running_loop().time()
            if left_s <= 0 or self._hurry.is_set():
                return
            await asyncio.sleep(min(left_s, LOOK_S))

    def __repr__(self) -> str:
        return f"<HttpServer [{self.connections} connections{', draining' if self.draining else ''}]>"


def _is_busy(connection: Any) -> bool:
    """Whether an HTTP connection has a request without its whole answer. Any: WebSockets are among them."""
    cycle = getattr(connection, "cycle", None)
    return cycle is not None and not cycle.response_complete
