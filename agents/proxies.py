"""This node's proxy workers: all that were asked for, or none, as the cluster's `ProxyLocation` says.

`agent` calls `start` on the way up. Whoever can know at once binds at once, so that a taken port ends the start: a
cluster of its own has nobody to ask, and workers that are found serving go on. A node that joins reads `/proxy` first.
From then on `cluster_changed` says what is wished and `run` sees to it: with HeadOnly the node registered longest
serves, and when it goes the next one takes over. A lost registration changes nothing here.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable

from serve_rt.agents import readiness, specs
from serve_rt.agents.children import Child, Children
from serve_rt.agents.launcher.records import Handle, ProcessKind
from serve_rt.agents.launcher_link import LauncherLink
from serve_rt.agents.node import ThisNode
from serve_rt.agents.settings import Settings
from serve_rt.aio import Backoff
from serve_rt.errors import DeadlineExceededError, ServeException
from serve_rt.model.cluster import Cluster
from serve_rt.model.ids import NodeId
from serve_rt.model.proxies import ProxyLocation, serves_http
from serve_rt.store.mirror import Mirror

log = logging.getLogger(__name__)
_WORKER_ACCEPTS_S = 20.0
"""A successor's time; it may wait some seconds for its first routes."""
_STORE_SAYS_S = 2.0


class Proxies:
    """*Resources*: `run` is a task of the agent; the workers are `Children` and outlive us."""

    def __init__(
        self, settings: Settings, launcher: LauncherLink, children: Children, found: tuple[Handle, ...]
    ) -> None:
        self._settings, self._launcher, self._children = settings, launcher, children
        self._found = tuple(handle for handle in found if handle.kind is ProcessKind.PROXY)
        self.may = settings.proxy and settings.proxy_workers > 0
        self._wished = self.may and self._sure()
        self._changed = asyncio.Event()
        self._workers: list[Child] = []
        self._port = 0
        self._open_now = False
        """All of `_open` has been done, and nothing of `_close`'s is left to do."""
        self._last_port = settings.http_port or specs.adopted_http_port(self._found)
        self.on_address: Callable[[], None] = lambda: None
        """`address` is another one now."""

    def _sure(self) -> bool:
        if any(handle.exited is None for handle in self._found):
            return True
        return self._settings.owned and self._settings.proxy_location is not ProxyLocation.Disabled

    @property
    def port(self) -> int:
        """0 while this node does not serve HTTP."""
        return self._port

    @property
    def address(self) -> str:
        """host:port, with https:// before it where that is spoken; "" while this node does not serve HTTP."""
        if not self._port:
            return ""
        return f"{'https://' if self._settings.https else ''}{self._settings.http_host}:{self._port}"

    # --- up -------------------------------------------------------------------------------------------------------

    async def bind_if_sure(self) -> None:
        """*Errors*: ConflictError naming who holds the port."""
        if self._wished:
            await self._bind()

    async def bind_if_told(self, node: ThisNode, mirror: Mirror) -> None:
        """For who was not sure: as the store says, or, when it does not answer, as the command line does."""
        if self._wished or not self.may or self._settings.owned:
            return
        try:
            cluster = await mirror.wait_for(lambda _: True, _STORE_SAYS_S)
        except DeadlineExceededError:
            self._wished = (self._settings.proxy_location or ProxyLocation.EveryNode) is ProxyLocation.EveryNode
        else:
            self._wished = self._shall_serve(node.node_id, cluster)
        if self._wished:
            await self._bind()

    async def start(self, node: ThisNode) -> None:
        """Workers on the sockets that are bound; those found serving are adopted."""
        if self._port:
            self._workers = [self._add_worker(node, worker) for worker in range(self._settings.proxy_workers)]
            await asyncio.gather(*(worker.ensure(self._found) for worker in self._workers))
            self._open_now = True

    def cluster_changed(self, node: NodeId, cluster: Cluster) -> None:
        if not self.may or node not in cluster.nodes or cluster.proxy is None:
            return
        wished = self._shall_serve(node, cluster)
        if wished is not self._wished:
            self._wished = wished
            self._changed.set()

    def _shall_serve(self, node: NodeId, cluster: Cluster) -> bool:
        location = cluster.proxy.location if cluster.proxy is not None else self._settings.proxy_location
        able = {node, *(one.node_id for one in cluster.nodes.values() if one.may_serve_http)}
        since = {one: cluster.registered_at.get(one, math.inf) for one in able}
        return serves_http(node, location or ProxyLocation.EveryNode, able, since)

    # --- as the cluster changes -----------------------------------------------------------------------------------

    async def run(self, node: ThisNode) -> None:
        backoff = Backoff(0.1, 5.0)
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await (self._open(node) if self._wished else self._close())
                backoff = Backoff(0.1, 5.0)
            except ServeException as error:
                log.error("proxies stay as they are: %s", error, extra={"action": "proxies_not_changed"})
                await asyncio.sleep(backoff.next_s())
                self._changed.set()

    async def _open(self, node: ThisNode) -> None:
        if self._open_now and self._port:
            return
        await self._bind()
        log.info("this node serves HTTP on %s", self.address, extra={"action": "proxies_opened"})
        if self._workers:
            await asyncio.gather(*(worker.resume() for worker in self._workers))
            self._open_now = True
        else:
            await self.start(node)
        self.on_address()

    async def _close(self) -> None:
        """Where nobody may connect any more nothing is bound; what is connected is drained."""
        if not self._open_now:
            return
        if self._port:  # else the launcher did not answer the last time
            log.info("this node serves HTTP no more", extra={"action": "proxies_closed"})
            self._port = 0
            self.on_address()
        await self._launcher.unbind_http()
        await asyncio.gather(*(worker.rest() for worker in self._workers))
        self._open_now = False

    async def _bind(self) -> None:
        settings = self._settings
        self._port = await self._launcher.bind_http(settings.http_host, self._last_port, settings.proxy_workers)
        self._last_port = self._port

    def _add_worker(self, node: ThisNode, worker: int) -> Child:
        path = self._settings.state.accepting(worker)

        async def up(handle: Handle) -> bool:
            return await readiness.worker_accepts(path, handle, _WORKER_ACCEPTS_S)

        return self._children.add(specs.proxy_spec(node, worker, self._port), up)

    async def restart(self) -> int:
        """Replace every worker, hot; how many. *Errors*: ServeException when a successor does not come up."""
        serving = [worker for worker in self._workers if not worker.resting]
        for worker in serving:
            await worker.replace()
        return len(serving)
