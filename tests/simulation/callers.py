"""Who sends requests: on some machines a process with the real routing (feed, routers, streams, demand), as a proxy.

Each request is a promise, checked at its end: I4 it ends exactly once and in time, I5 what may not run twice starts at
most once, I6 it goes to no replica that is out of its caller's table, I8 the counts are back at zero when all is quiet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from serve_rt.errors import DeploymentUnavailableError, RequestError, ServeException
from serve_rt.model.cluster import Cluster
from serve_rt.model.ids import DeploymentKey
from serve_rt.model.routes import DeploymentRoute, RouteTable
from serve_rt.pb import stream_pb2 as pb
from serve_rt.routing.demand import DemandReporter
from serve_rt.routing.exchange import Exchange
from serve_rt.routing.feed import FeedClient
from serve_rt.routing.link import Link
from serve_rt.routing.outgoing import Outgoing
from serve_rt.routing.routers import Routers
from serve_rt.testing.sim_loop import SimProcess, current_process
from tests.simulation.agent import PORT
from tests.simulation.token import TOKEN

if TYPE_CHECKING:
    from tests.simulation.machine import SimMachine
    from tests.simulation.replica import SimReplica
    from tests.simulation.world import SimWorld

EVERY_S = 8.0
"""Mean time between two requests of one caller."""
PATIENCE_S = (4.0, 12.0, 40.0)
GRACE_S = 1.0
INNER = "i"
"""The deployment that other deployments call."""


@dataclass
class Sent:
    request_id: str
    key: DeploymentKey
    retry_safe: bool
    deadline: float
    work_s: float
    known: int
    """The revision of the caller's table when it asked."""
    starts: int = 0


class Requests:
    """All that were ever sent, and where they began to run."""

    def __init__(self, world: SimWorld) -> None:
        self._world = world
        self.sent: dict[str, Sent] = {}
        self.answered = 0

    def started(self, request_id: str, replica: SimReplica) -> Sent:
        sent = self.sent[request_id]
        sent.starts += 1
        if sent.starts > (2 if sent.retry_safe else 1):
            self._world.invariants.failed(f"I5: {request_id} ({sent}) starts once more, on {replica}")
        return sent


class Caller:
    """*Resources*: everything belongs to its process, and ends with it."""

    def __init__(self, machine: SimMachine, number: int) -> None:
        self.machine, self.world = machine, machine.world
        self.name = f"caller {machine.name}/{number}"
        self.process: SimProcess = self.world.network.process(self.name, machine.name)
        self.routers: Routers | None = None
        self.open: dict[str, Sent] = {}
        self.wave: tuple[str, float] | None = None
        """An application that is asked much more until then."""
        self.quiet = False
        """Asks nothing any more but what it is told to."""
        self._draw = Random(f"{self.world.seed} {self.name}")
        self._count = 0
        self.process.start(self._run(), name="main")

    async def _run(self) -> None:
        routers = self.routers = Routers("sim", TOKEN, self.name)
        feed = FeedClient([f"{self.machine.name}:{PORT}"], TOKEN, self.name, routers.update, None)
        feed.subscriber = self.name
        feed.start()
        DemandReporter(routers, feed, TOKEN).start()
        while True:
            wave = self.wave is not None and self.world.now < self.wave[1]
            await asyncio.sleep(self._draw.expovariate(1.0) * (0.5 if wave else EVERY_S))
            key = self._whom(routers.table)
            if key is not None and not self.quiet:
                self.process.start(self._ask(routers, key), name="request")

    def ask_last(self, key: DeploymentKey) -> Callable[[], str]:
        """When all is at rest: what comes back says why it was not answered."""
        routers = self.routers
        if routers is None or not self.process.alive:
            return str
        asked = self.process.start(self._ask(routers, key, patience_s=15.0), name="last request")

        def why() -> str:
            verdict = asked.result() if asked.done() else "not ended"
            return "" if verdict == "answered" else f"{self.name} asked {key}: {verdict}"

        return why

    def _whom(self, table: RouteTable | None) -> DeploymentKey | None:
        known = _asked(table) if table is not None else []
        if self.wave is not None and self.world.now < self.wave[1]:
            known = [key for key in known if key.app == self.wave[0]]
        return self._draw.choice(known) if known else None

    async def _ask(self, routers: Routers, key: DeploymentKey, patience_s: float = 0.0) -> str:
        self._count += 1
        draw, now = self._draw, self.world.now
        sent = Sent(
            f"{self.name}#{self._count}",
            key,
            retry_safe=draw.random() < 0.5,
            deadline=now + (patience_s or draw.choice(PATIENCE_S)),
            work_s=draw.choice((0.01, 0.1, 1.0, 2.5)),
            known=routers.table.revision if routers.table is not None else 0,
        )
        self.world.requests.sent[sent.request_id] = self.open[sent.request_id] = sent
        self.world.later(sent.deadline + GRACE_S - now, lambda: self._must_have_ended(sent))
        try:
            verdict = await self._answer(routers, sent)
        finally:
            del self.open[sent.request_id]
        self.world.happened[f"request {verdict}"] += 1
        return verdict

    async def _answer(self, routers: Routers, sent: Sent) -> str:
        request = Outgoing(
            http=None,
            call=pb.MethodCall(method="__call__"),
            body=b"",
            end=True,
            request_id=sent.request_id,
            deadline=sent.deadline,
            retry_safe=sent.retry_safe,
            app=sent.key.app,
        )
        body, ends = b"", 0
        try:
            exchange = await routers.router(sent.key).send(request)
            while (part := await exchange.read()) is not None:
                body += part.body if isinstance(part, pb.Head) else part.payload
                ends += part.end
        except (ServeException, RequestError) as error:
            if body:
                self.world.invariants.failed(f"I4: {sent} fails after its whole answer: {error!r}")
            refused = isinstance(error, DeploymentUnavailableError)
            return "refused" if refused else type(error).__name__
        if body != sent.request_id.encode() or ends != 1:
            self.world.invariants.failed(f"I4: {sent} is answered {body!r}, with {ends} ends")
        self.world.requests.answered += 1
        return "answered"

    def _must_have_ended(self, sent: Sent) -> None:
        if self.process.alive and sent.request_id in self.open:
            self.world.invariants.failed(f"I4: {sent} has not ended {GRACE_S} s after its deadline")

    # --- at rest -----------------------------------------------------------------------------------------------------

    def behind(self, cluster: Cluster) -> list[str]:
        """What the store says of the routes, and has not come here."""
        table = self.routers.table if self.routers is not None else None
        if table is None or not self.process.alive:
            return []
        here = {route.key: _replicas(route) for route in table.deployments}
        there = {key: _replicas(route) for key, route in cluster.routes.items()}
        return [
            f"{self.name} knows {here.get(key)} of {key}, not {there[key]}"
            for key in there
            if here.get(key) != there[key]
        ]

    # --- I8 -------------------------------------------------------------------------------------------------------

    def leftovers(self) -> list[str]:
        """What must be gone when nobody asks any more."""
        if self.routers is None or not self.process.alive:
            return []
        counts = self.routers.counters()
        left = {name: counts[name] for name in ("waiting", "reserved") if counts[name]}
        return [f"I8: {self.name} counts {left} and asks nothing"] if left else []


def _asked(table: RouteTable) -> list[DeploymentKey]:
    """As a proxy asks: the ingress of each application while it has a route. And as handles do: what that calls."""
    ingresses = {DeploymentKey(app.name, app.ingress) for app in table.apps if app.route_prefix is not None}
    keys = [route.key for route in table.deployments]
    return [key for key in keys if key in ingresses or key.deployment == INNER]


def _replicas(route: DeploymentRoute) -> list[tuple[str, int]]:
    return sorted((replica.replica_id, replica.incarnation) for replica in route.replicas)


def watch_placing(world: SimWorld, put_on: object) -> object:
    """A tap for `Exchange.put_on`: I6 at the moment a request is given to a stream."""

    def watched(exchange: Exchange, link: Link) -> None:
        process = current_process()
        caller = next((c for c in world.callers if c.process is process), None)
        if caller is not None and caller.routers is not None:
            _check_place(world, caller.routers, exchange, link)
        put_on(exchange, link)  # type: ignore[operator]  # the method itself, unbound

    return watched


def _check_place(world: SimWorld, routers: Routers, exchange: Exchange, link: Link) -> None:
    table, sent = routers.table, world.requests.sent[exchange.request.request_id]
    counts = routers.counters()
    if min(counts["waiting"], counts["reserved"]) < 0:
        world.invariants.failed(f"I8: a counter is below zero: {counts}")
    route = next((r for r in table.deployments if r.key == sent.key), None) if table is not None else None
    listed = route is not None and any(
        (r.replica_id, r.incarnation) == (link.route.replica_id, link.route.incarnation) for r in route.replicas
    )
    if not listed:
        world.invariants.failed(f"I6: {sent} goes to {link}, which is not in the caller's table")
    removed_at = world.removed.get(link.route.replica_id)
    if removed_at is not None and sent.known >= removed_at:
        world.invariants.failed(f"I6: {sent} goes to {link} of a life that was deleted at {removed_at}")
