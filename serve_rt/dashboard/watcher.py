"""Asks the cluster how it is, once a second, and keeps the answers: the newest whole, the last minutes as points.

It is a client like any other: one agent tells status, nodes and scaling from its own view of the store, each node's
agent its page of metrics. What cannot be had now is left out and said on the page; nothing here ends the watch.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from serve_rt.aio import Clock
from serve_rt.api.client import AgentClient
from serve_rt.credentials import ClusterToken
from serve_rt.dashboard.counted import Counted, read_pages
from serve_rt.dashboard.history import History
from serve_rt.errors import ServeException
from serve_rt.model.scaling import ScalingOverview
from serve_rt.model.status import NodesOverview, ServeStatus

log = logging.getLogger(__name__)
T = TypeVar("T")
EVERY_S = 1.0
ASK_TIMEOUT_S = 3.0
AT_ONCE = 16
"""So many nodes are asked for their pages at a time."""


@dataclass(frozen=True, slots=True)
class View:
    """The newest answers."""

    cluster: str
    at_s: float
    """Time of day of the last round."""
    status: ServeStatus = field(default_factory=ServeStatus)
    nodes: NodesOverview = field(default_factory=NodesOverview)
    scaling: ScalingOverview = field(default_factory=ScalingOverview)
    trouble: tuple[str, ...] = ()
    """What could not be had in the last round; what stands above is then older."""


class Watcher:
    """*Resources*: `run` for as long as somebody watches, then `close`. `agents` makes a client of an address."""

    def __init__(self, cluster: str, first: AgentClient, agents: Callable[[str], AgentClient], clock: Clock) -> None:
        self.history = History()
        self._first, self._agents, self._clock = first, agents, clock
        self._others: dict[str, AgentClient] = {}
        self.view = View(cluster, clock.wall())

    async def run(self) -> None:
        """For ever."""
        while True:
            began_s = self._clock.monotonic()
            await self.look()
            await self._clock.sleep(max(0.1, EVERY_S - (self._clock.monotonic() - began_s)))

    async def look(self) -> None:
        """One round."""
        before, trouble = self.view, list[str]()
        status, nodes, scaling = await asyncio.gather(
            _or_former(self._first.status(), before.status, "status", trouble),
            _or_former(self._first.nodes(), before.nodes, "nodes", trouble),
            _or_former(self._first.autoscaling(""), before.scaling, "autoscaling", trouble),
        )
        counted = await self._count(nodes, trouble)
        wall_s = self._clock.wall()
        self.view = View(before.cluster, wall_s, status, nodes, scaling, tuple(trouble))
        self.history.add(status, scaling, counted, now_s=self._clock.monotonic(), wall_s=wall_s)

    async def _count(self, nodes: NodesOverview, trouble: list[str]) -> Counted:
        live = {node.node_id: node.address for node in nodes.nodes if node.alive and node.address}
        await self._forget(set(live.values()))
        gate = asyncio.Semaphore(AT_ONCE)

        async def page(node: str, address: str) -> str | None:
            async with gate:
                asked = self._client(address).metrics(timeout_s=ASK_TIMEOUT_S)
                return await _or_former(asked, None, f"metrics of {node}", trouble)

        pages = await asyncio.gather(*(page(node, address) for node, address in live.items()))
        read = {node: text for node, text in zip(live, pages, strict=True) if text is not None}
        return await asyncio.to_thread(read_pages, read)  # prometheus-client reads slowly: 20 ms for 1,000 series

    def _client(self, address: str) -> AgentClient:
        if address == self._first.address:
            return self._first
        if address not in self._others:
            self._others[address] = self._agents(address)
        return self._others[address]

    async def _forget(self, known: set[str]) -> None:
        for address in self._others.keys() - known:
            await self._others.pop(address).close()

    async def close(self) -> None:
        """Of the clients it made; the first is the caller's."""
        await self._forget(set())


async def _or_former(asked: Awaitable[T], former: T, what: str, trouble: list[str]) -> T:
    try:
        return await asyncio.wait_for(asked, ASK_TIMEOUT_S)
    except (ServeException, TimeoutError) as error:
        log.debug("no %s: %s", what, error, extra={"action": "dashboard_not_told"})
        trouble.append(f"{what}: {error or 'no answer'}")
        return former


def agent_clients(token: ClusterToken) -> Callable[[str], AgentClient]:
    return lambda address: AgentClient(address, token)
