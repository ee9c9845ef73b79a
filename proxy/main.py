"""A proxy worker from its first line to its last. Forked by the node's launcher, which calls `run`.

SIGTERM or SIGINT makes it a lame duck (a second SIGINT closes idle connections at once); its successor accepts on the
same socket meanwhile. Nothing here or below talks to etcd or the controller.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import uvloop

from serve_rt.credentials import ClusterToken
from serve_rt.errors import ServeException
from serve_rt.model.routes import RouteTable
from serve_rt.model.starts import ProxyStart
from serve_rt.observe import log as process_log
from serve_rt.proxy.app import ProxyApp
from serve_rt.proxy.http_server import HttpServer
from serve_rt.proxy.limits import Limits, checked
from serve_rt.proxy.metrics import WorkerMetrics
from serve_rt.routing import DemandReporter, FeedClient, Routers
from serve_rt.transport.limits import GIL_SWITCH_S

if TYPE_CHECKING:
    from ssl import SSLContext

log = logging.getLogger(__name__)
CLOSE_S = 2.0
FIRST_TABLE_WAIT_S = 6.0
"""A little longer than the feed gives a silent agent before it takes the routes saved on disk."""


def run(start: Mapping[str, Any]) -> int:  # Any: JSON of a ProxyStart
    """Be the proxy that `start` describes; returns the exit code when it has drained."""
    told = msgspec.convert(start, ProxyStart)
    process_log.configure(f"proxy {told.worker}")
    sys.setswitchinterval(GIL_SWITCH_S)
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(_live(told))
    except ServeException as error:
        log.error("%s", error, extra={"action": "proxy_failed"})
        return 1


async def _live(start: ProxyStart) -> int:
    loop = asyncio.get_running_loop()
    token = ClusterToken.read(Path(start.token_path))
    name = f"proxy/{start.worker}@{start.node_id}"
    limits = Limits(**checked({"keep_alive_timeout_s": start.keep_alive_timeout_s, **start.limits}))  # type: ignore[arg-type]  # checked
    routers = Routers(start.cluster, token, name)
    came = asyncio.Event()

    def take(table: RouteTable) -> None:
        app.update(table)
        came.set()

    feed = FeedClient((start.agent_address,), token, name, take, Path(start.routes_path))
    demand = DemandReporter(routers, feed, token)
    app = ProxyApp(routers, feed, limits, root_path=start.root_path, timeout_s=start.request_timeout_s)
    server = HttpServer(app, limits)
    ending = _Ending(server)
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, ending.told, signum)
    feed.start()
    demand.start()
    metrics = app.measure(name)
    metrics.start(feed, token)
    await _first_table(came, ending)
    await server.start(socket.socket(fileno=os.dup(start.socket_fd)), _tls(start))
    _tell_accepting(start)
    log.info("accepting on %s:%d", start.host, start.port, extra={"action": "proxy_started", "pid": os.getpid()})
    _quiet_collector()
    await ending.begun.wait()
    log.info("draining", extra={"action": "proxy_draining", "connections": server.connections})
    app.draining = True
    answered = await server.drain()
    await _close(metrics, demand, feed, routers)
    log.info("ended", extra={"action": "proxy_ended", "all_answered": answered})
    return 0


async def _first_table(came: asyncio.Event, ending: _Ending) -> None:
    """Routes first, then connections: a worker that replaces another would tell clients 404 for what its predecessor
    routed a moment ago. Meanwhile they wait in the launcher's socket; bounded, so that /-/healthz can say what lacks.
    """
    waits = [asyncio.create_task(came.wait(), name="table"), asyncio.create_task(ending.begun.wait(), name="ending")]
    try:
        await asyncio.wait(waits, timeout=FIRST_TABLE_WAIT_S, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
    if not came.is_set():
        log.warning("accepting without routes: 503 until they come", extra={"action": "no_routes"})


def _tls(start: ProxyStart) -> SSLContext | None:
    """*Errors*: ConfigError; then the predecessor stays."""
    if not start.ssl_certfile:
        return None
    from serve_rt.credentials.http_tls import https_context  # where it is asked for

    return https_context(start.ssl_certfile, start.ssl_keyfile)


def _tell_accepting(start: ProxyStart) -> None:
    """The agent lets our predecessor go when it reads this. A disk that is full must not keep us from serving."""
    if not start.accepting_path:
        return
    path = Path(start.accepting_path)
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        staged.write_text(f"{os.getpid()}\n")
        staged.replace(path)
    except OSError as error:
        log.error("cannot write %s: %s", path, error.strerror, extra={"action": "accepting_not_told"})


class _Ending:
    """The first signal begins the drain. SIGTERM again changes nothing: an agent that restarts tells its lame ducks
    once more. SIGINT again hurries it: closing an idle connection may cross a request on its way (measured: 1 of 80),
    which a single Ctrl-C must not cost anybody."""

    def __init__(self, server: HttpServer) -> None:
        self.begun = asyncio.Event()
        self._server = server

    def told(self, signum: int) -> None:
        if self.begun.is_set() and signum == signal.SIGINT:
            self._server.hurry()
        self.begun.set()


async def _close(metrics: WorkerMetrics, demand: DemandReporter, feed: FeedClient, routers: Routers) -> None:
    try:
        async with asyncio.timeout(CLOSE_S):
            await metrics.close()
            await demand.close()
            await feed.close()
            await routers.close()
    except TimeoutError:
        log.warning("closing took longer than %g s", CLOSE_S, extra={"action": "close_late"})


def _quiet_collector() -> None:
    """What exists now stays; requests leave few cycles, so the collector need not look so often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
