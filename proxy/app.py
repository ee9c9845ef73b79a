"""The ASGI application of a proxy: its own few pages, then the route, then forward.

Called by uvicorn for every request; next stop: serve_rt.proxy.forward or serve_rt.proxy.websocket.
"""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from serve_rt.model.routes import RouteTable
from serve_rt.observe.exposition import CONTENT_TYPE
from serve_rt.proxy.answers import Answer, not_found
from serve_rt.proxy.attempt import respond
from serve_rt.proxy.forward import Forward
from serve_rt.proxy.limits import Limits
from serve_rt.proxy.metrics import WorkerMetrics
from serve_rt.proxy.routes import Routes
from serve_rt.proxy.websocket import WebSocketForward
from serve_rt.routing import Routers

Scope = dict[str, Any]  # Any: ASGI says so
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class RouteAge(Protocol):
    @property
    def age_s(self) -> float | None:
        """How long nobody has confirmed the routes; None when they were never confirmed."""
        ...


class ProxyApp:
    def __init__(
        self, routers: Routers, age: RouteAge, limits: Limits, *, root_path: str = "", timeout_s: float | None = None
    ) -> None:
        self.routes = Routes(None)
        self.draining = False
        self.client_left = 0
        self.metrics: WorkerMetrics | None = None
        self._routers, self._age, self._root_path = routers, age, root_path.rstrip("/")
        self._forward = Forward(routers, limits, timeout_s)
        self._websocket = WebSocketForward(routers, limits, self._forward.counts)
        self._unrouted = 0

    def update(self, table: RouteTable) -> None:
        """The feed's table: routers first, so that replicas are being dialed when a request looks for one."""
        self._routers.update(table)
        routes = Routes(table, self._root_path)
        for target in routes.targets:
            self._routers.router(target.key)
        self.routes = routes

    def begin(self, scope: Scope) -> bool:
        """Take a request whose body is here, or that is refused. False: nothing was done, `__call__` must."""
        path: str = scope["path"]
        if self._root_path or path.startswith("/-/"):
            return False
        target = self.routes.match(path)
        return target is not None and self._forward.begin(target, scope)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        if path == "/-/metrics" and scope["type"] == "http":
            await respond(send, scope, await self._metrics_page(scope), b"")
            return
        if path.startswith("/-/") and scope["type"] == "http":
            await respond(send, scope, self._own_page(path, scope), b"", self._own_headers(path))
            return
        target = self.routes.match(path)
        if self._root_path:  # ASGI: the path begins with the root path, also where a proxy before us took it off
            scope["path"] = self._root_path + path
            scope["raw_path"] = self._root_path.encode() + scope["raw_path"]
        if scope["type"] == "websocket":
            await self._websocket(target, scope, receive, send)
        elif target is None:
            self._unrouted += 1
            no_table = self._routers.table is None
            self._forward.counts.add(("", "", scope["method"], "503" if no_table else "404"), 0.0)
            await respond(send, scope, _NO_TABLE if no_table else not_found(path), b"")
        else:
            await self._forward(target, scope, receive, send)

    # --- own pages ------------------------------------------------------------------------------------------------

    def _own_page(self, path: str, scope: Scope) -> Answer:
        if path == "/-/healthz":
            return self._health()
        if path == "/-/routes":
            if self._routers.table is None:
                return _NO_TABLE
            return Answer(200, json.dumps(self.routes.by_prefix()), content_type="application/json")
        if path == "/-/counters" and _from_loopback(scope):
            return Answer(200, json.dumps(self.counters()), content_type="application/json")
        return not_found(path)

    async def _metrics_page(self, scope: Scope) -> Answer:
        """Of the whole node. Names of applications and routes are nobody's business outside."""
        if self.metrics is None or not _from_nearby(scope):
            return not_found("/-/metrics")
        page = await self.metrics.page()
        return Answer(200, page.decode(), content_type=CONTENT_TYPE)

    def measure(self, worker: str) -> WorkerMetrics:
        """Serve metrics from now on; the caller starts and closes what it gets."""
        self.metrics = WorkerMetrics(worker, self._forward.counts, self._begun, self._routers)
        return self.metrics

    def _begun(self) -> int:
        """As many as are in the counts, and those that have not ended."""
        return self._forward.requests + self._websocket.requests + self._unrouted

    def counters(self) -> dict[str, int]:
        """Of this worker alone; which one answers is the kernel's choice."""
        return {
            "pid": os.getpid(),
            **self._routers.counters(),
            "forwarded": self._forward.requests,
            "client_left": self._forward.left,
        }

    def _health(self) -> Answer:
        if self.draining:
            return Answer(503, "This node is being drained.")
        if self._routers.table is None:
            return _NO_TABLE
        return Answer(200, "success")

    def _own_headers(self, path: str) -> list[tuple[bytes, bytes]]:
        age_s = self._age.age_s
        if path != "/-/healthz" or not age_s:
            return []
        return [(b"x-routes-age", f"{age_s:.1f}".encode())]


_NO_TABLE = Answer(503, "Route table is not populated yet.", 1.0)


def _from_loopback(scope: Scope) -> bool:
    client = scope.get("client")
    try:
        return client is not None and ipaddress.ip_address(client[0]).is_loopback
    except ValueError:
        return False


def _from_nearby(scope: Scope) -> bool:
    """From this machine or a private network, as a Prometheus is."""
    client = scope.get("client")
    try:
        return client is not None and ipaddress.ip_address(client[0]).is_private  # loopback included
    except ValueError:
        return False
