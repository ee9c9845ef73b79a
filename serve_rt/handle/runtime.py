"""One per process: what turns `handle.remote()` into a request on the wire.

It owns the feed of routes and the routers, all on one event loop: a driver's own thread (serve_rt.handle.driver_loop)
or, in a replica, the main loop, while user code and its handles run on other threads. Nothing is opened before the
first handle is used. Next stop of a call: serve_rt.routing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextvars import Context
from typing import TYPE_CHECKING, Any, Protocol

from serve_rt.credentials import ClusterToken
from serve_rt.model.ids import DeploymentKey
from serve_rt.model.routes import RouteTable

if TYPE_CHECKING:
    from serve_rt.routing import Exchange, Outgoing

log = logging.getLogger(__name__)
FIRST_TABLE_TIMEOUT_S = 10.0
MAX_IN_LINE = 2048
"""Calls of one deployment that wait in its router; a router itself refuses more than 4,096."""


class Sender(Protocol):
    """What a handle needs of a Router."""

    async def send(self, request: Outgoing) -> Exchange: ...

    def send_at_once(self, request: Outgoing) -> Exchange | None:
        """`send` when nothing need be waited for; None, and nothing is done, when something must."""
        ...

    async def send_everywhere(self, request: Outgoing) -> list[Exchange]: ...


class RouteSource(Protocol):
    """What a handle needs of Routers and their feed together."""

    @property
    def table(self) -> RouteTable | None: ...

    def router(self, key: DeploymentKey) -> Sender: ...

    def was_known(self, key: DeploymentKey) -> bool:
        """Whether it stood in this table or a former one: when it is missing now, it was deleted."""
        ...

    async def wait_for_change(self) -> None:
        """Return when another table has arrived."""
        ...

    def demand(self) -> Mapping[DeploymentKey, tuple[int, int]]:
        """Calls that wait for a slot and calls that hold one, of each deployment that has any."""
        ...

    async def close(self) -> None: ...


class HandleRuntime:
    """*Resources*: in a replica the process ends with it; a driver calls `close` (serve.shutdown does)."""

    def __init__(self, loop: asyncio.AbstractEventLoop, open_routes: Callable[[], Awaitable[RouteSource]]) -> None:
        self.loop = loop
        self._open_routes = open_routes
        self._routes: asyncio.Task[RouteSource] | None = None
        self._posted: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._woken = False
        # Not the caller's: streams opened by the first call live on, and would keep its request's context with them.
        self._context = Context()
        self._lines: dict[DeploymentKey, asyncio.Semaphore] = {}
        self.calls: dict[DeploymentKey, int] = {}
        """How many were made, by the deployment that was called; on the loop only."""

    def line(self, key: DeploymentKey) -> asyncio.Semaphore:
        """Bounds how many calls of one deployment wait for a slot in its router; on the loop only."""
        if key not in self._lines:
            self._lines[key] = asyncio.Semaphore(MAX_IN_LINE)
        return self._lines[key]

    def post(self, step: Callable[..., object], *args: object) -> None:
        """Run `step` on the loop soon; from any thread. A burst of posts costs one wake-up."""
        self._posted.append((step, args))
        if not self._woken:
            self._woken = True  # a second thread that sees False here only wakes the loop once too often
            self.loop.call_soon_threadsafe(self._run_posted, context=self._context)

    def _run_posted(self) -> None:
        self._woken = False  # before the queue is read: a post from now on wakes the loop again
        while self._posted:
            step, args = self._posted.popleft()
            try:
                step(*args)
            except Exception:  # one call's bug must not hold up the steps of the others behind it
                log.exception("a step of a call failed", extra={"action": "call_step_failed"})

    async def routes(self) -> RouteSource:
        """The routes, opened at the first call; on the loop only.

        *Errors*: NoClusterError when no table arrives within FIRST_TABLE_TIMEOUT_S.
        """
        if self._routes is None or (self._routes.done() and not _succeeded(self._routes)):
            self._routes = asyncio.ensure_future(self._open_routes())
        return await asyncio.shield(self._routes)

    def routes_at_hand(self) -> RouteSource | None:
        """The routes if they are open; on the loop only."""
        if self._routes is None or not self._routes.done() or not _succeeded(self._routes):
            return None
        return self._routes.result()

    def in_flight(self) -> tuple[int, int]:
        """Calls of this process's handles that wait for a slot, and that hold one; on the loop only."""
        counts = self.demand().values()
        return sum(queued for queued, _ in counts), sum(ongoing for _, ongoing in counts)

    def demand(self) -> Mapping[DeploymentKey, tuple[int, int]]:
        """The same by deployment, for those that have any; on the loop only."""
        routes = self.routes_at_hand()
        return routes.demand() if routes is not None else {}

    def replicas_of(self, key: DeploymentKey) -> int:
        """How many the routes name now, from any thread; 0 before they are opened."""
        opened = self._routes
        if opened is None or not opened.done() or not _succeeded(opened):
            return 0
        table = opened.result().table
        routes = table.deployments if table is not None else ()
        return sum(len(route.replicas) for route in routes if route.key == key)

    async def close(self) -> None:
        """On the loop."""
        opened, self._routes = self._routes, None
        if opened is None:
            return
        if not opened.done():
            opened.cancel()
            await asyncio.gather(opened, return_exceptions=True)
        elif _succeeded(opened):
            await opened.result().close()


def _succeeded(task: asyncio.Task[RouteSource]) -> bool:
    return not task.cancelled() and task.exception() is None


# --- the process's runtime ----------------------------------------------------------------------------------------

_lock = threading.Lock()
_current: HandleRuntime | None = None


def install_in_replica(
    agent_address: str,
    token: ClusterToken,
    cluster: str,
    client_name: str,
    loop: asyncio.AbstractEventLoop,
) -> HandleRuntime:
    """Let handles of this replica work: their requests leave from `loop`, its main loop. Opens nothing yet."""

    async def open_routes() -> RouteSource:
        from serve_rt.handle.feed import open_feed

        return await open_feed((agent_address,), token, cluster, client_name)

    runtime = HandleRuntime(loop, open_routes)
    install(runtime)
    return runtime


def install(runtime: HandleRuntime | None) -> None:
    """Replace the process's runtime; the caller closes the old one."""
    global _current
    with _lock:
        _current = runtime


def current_runtime() -> HandleRuntime:
    """This process's runtime; a driver that has none yet gets one for the cluster it can find."""
    global _current
    with _lock:
        if _current is None:
            _current = _driver_runtime()
        return _current


def find_runtime() -> HandleRuntime | None:
    return _current


def _driver_runtime() -> HandleRuntime:
    from serve_rt.handle.address import find_agent
    from serve_rt.handle.driver_loop import driver_loop

    found = find_agent()  # raises here, in the caller's thread, when there is no cluster

    async def open_routes() -> RouteSource:
        from serve_rt.handle.feed import cluster_name, open_feed

        token = found.token()
        cluster = await cluster_name(found.address, token)
        return await open_feed((found.address,), token, cluster, f"driver/{os.getpid()}")

    return HandleRuntime(driver_loop().loop, open_routes)


def connect_driver(address: str, token: ClusterToken, cluster: str) -> None:
    """Point this driver's handles at a cluster; a no-op inside a replica, whose runtime is installed already."""

    async def open_routes() -> RouteSource:
        from serve_rt.handle.feed import open_feed

        return await open_feed((address,), token, cluster, f"driver/{os.getpid()}")

    from serve_rt.handle.driver_loop import driver_loop

    install(HandleRuntime(driver_loop().loop, open_routes))


def _after_fork_in_child() -> None:
    global _lock, _current
    _lock = threading.Lock()
    _current = None


os.register_at_fork(after_in_child=_after_fork_in_child)

__all__ = [
    "FIRST_TABLE_TIMEOUT_S",
    "HandleRuntime",
    "RouteSource",
    "Sender",
    "connect_driver",
    "current_runtime",
    "find_runtime",
    "install",
    "install_in_replica",
]
