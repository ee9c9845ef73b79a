"""A replica's process as its agent sees one: it listens, constructs, reports, answers pings, drains, ends.

User code is a `Behaviour`, chosen by the world when the process starts. What the process holds of its devices comes
back a moment after its end.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from serve_rt.agents.launcher.records import SpawnSpec
from serve_rt.credentials import control_server
from serve_rt.model.ids import DeploymentKey, ReplicaId
from serve_rt.model.replica import Assignment
from serve_rt.pb import replica_pb2 as pb
from serve_rt.testing.sim_loop import SimProcess
from serve_rt.transport.server import ReplicaIdentity, ServerRequest, StreamService
from serve_rt.wire.services import service_handler
from tests.simulation.token import TOKEN

if TYPE_CHECKING:
    from tests.simulation.machine import SimMachine

LISTENS_AFTER_S = 0.02


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What user code does."""

    construct_s: float = 0.3
    raises: bool = False
    never_ready: bool = False
    crashes_after_s: float | None = None
    """After it got ready."""
    drain_s: float = 0.2
    ignores_drain: bool = False
    leaves_child: bool = False
    """A child of its own outlives it, and holds its devices."""
    unhealthy: bool = False
    """check_health fails."""


class SimReplica:
    """One incarnation. `machine` is told of its end."""

    def __init__(
        self, machine: SimMachine, spec: SpawnSpec, assignment: Assignment, port: int, pid: int, behaviour: Behaviour
    ) -> None:
        self.machine, self.spec, self.assignment, self.pid, self.behaviour = machine, spec, assignment, pid, behaviour
        self.replica_id: ReplicaId = assignment.replica_id
        self.incarnation = spec.incarnation
        self.port = port
        self.phase = pb.REPLICA_PHASE_CONSTRUCTING
        self.message = ""
        self._hurt = False
        self.was_ready = False
        self.killed_by_us = ""
        self.exit_code: int | None = None
        self.exit_signal: int | None = None
        self.process: SimProcess = machine.world.network.process(f"{self.replica_id}.{self.incarnation}", machine.name)
        self.process.on_end.append(self._ended)
        self._changed = asyncio.Event()
        self._draining: asyncio.Task[Any] | None = None
        self.streams: StreamService | None = None
        self.process.start(self._live(), name="main")

    @property
    def alive(self) -> bool:
        return self.process.alive

    @property
    def key(self) -> DeploymentKey:
        return self.assignment.key

    @property
    def ready(self) -> bool:
        """It answers requests."""
        return self.alive and not self.process.paused and self.phase == pb.REPLICA_PHASE_READY

    @property
    def healthy(self) -> bool:
        return self.ready and not self.hurt and not self.behaviour.unhealthy

    @property
    def ongoing(self) -> int:
        """Slots that are taken, as it counts them."""
        return self.streams.ongoing if self.streams is not None else 0

    @property
    def hurt(self) -> bool:
        """A fault or its own user code harms it: killing it is nobody's mistake."""
        return self._hurt

    @hurt.setter
    def hurt(self, value: bool) -> None:
        self._hurt = value
        if self.was_ready:
            self.machine.world.invariants.floor.fell(self)

    # --- its life -------------------------------------------------------------------------------------------------

    async def _live(self) -> None:
        await asyncio.sleep(LISTENS_AFTER_S)
        server = control_server(TOKEN)
        identity = ReplicaIdentity("sim", self.replica_id, self.incarnation)
        capacity = self.assignment.spec.options.max_ongoing_requests
        self.streams = StreamService(identity, TOKEN, self, capacity)
        self.streams.set_accepting(False)
        server.add_generic_rpc_handlers((service_handler(pb.DESCRIPTOR.services_by_name["Replica"], self),))
        server.add_generic_rpc_handlers((self.streams.grpc_handler,))
        server.add_insecure_port(f"{self.machine.name}:{self.port}")
        await server.start()
        await asyncio.sleep(self.behaviour.construct_s)
        if self.behaviour.raises:
            self._enter(pb.REPLICA_PHASE_FAILED, "Traceback: RuntimeError: boom")
            await asyncio.sleep(0.1)
            self.exit(code=1)
            return
        if self.behaviour.never_ready or self.phase == pb.REPLICA_PHASE_DRAINING:
            return
        self.streams.set_accepting(True)
        if self.assignment.spec.version.endswith("good"):
            self.machine.world.happened["good version ready"] += 1
        self.was_ready = True
        self._enter(pb.REPLICA_PHASE_READY)
        if self.behaviour.crashes_after_s is not None:
            await asyncio.sleep(self.behaviour.crashes_after_s)
            self.exit(number=signal.SIGSEGV)

    def _enter(self, phase: pb.ReplicaPhase, message: str = "") -> None:
        self.machine.world.note("replica", self.replica_id, self.incarnation, phase)
        self.phase, self.message = phase, message
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def drain_begins(self) -> None:
        """By its agent's RPC, or by SIGTERM."""
        if self._draining is None:
            self._enter(pb.REPLICA_PHASE_DRAINING)
            self._draining = self.process.start(self._drain(), name="drain")

    async def _drain(self) -> None:
        drained = self.streams is None or await self.streams.drain(60.0)
        if drained and not self.behaviour.ignores_drain:
            await asyncio.sleep(self.behaviour.drain_s)
            self.exit(code=0)

    # --- requests ---------------------------------------------------------------------------------------------------

    def start(self, request: ServerRequest) -> None:
        """As the real replica's handler: the slot is taken."""
        sent = self.machine.world.requests.started(request.open.request_id, self)
        work = self.process.start(self._answer(request, sent.work_s), name="request")
        work.add_done_callback(lambda _: request.finished())  # also of one that was cancelled before its first step

        def cancelled(_reason: str) -> None:
            work.cancel()

        request.on_cancel = cancelled

    async def _answer(self, request: ServerRequest, work_s: float) -> None:
        await asyncio.sleep(work_s)
        request.head(200, [], body=request.open.request_id.encode(), end=True)

    def exit(self, *, code: int | None = None, number: int | None = None) -> None:
        if self.alive:
            self.exit_code, self.exit_signal = code, number
            self.process.kill()

    def _ended(self) -> None:
        self.machine.replica_ended(self)

    # --- the Replica service ----------------------------------------------------------------------------------------

    async def watch(self, request: pb.WatchRequest, context: object) -> AsyncIterator[pb.ReplicaReport]:
        while True:
            changed = self._changed
            yield pb.ReplicaReport(
                replica_id=self.replica_id, incarnation=self.incarnation, phase=self.phase, message=self.message
            )
            await changed.wait()

    async def ping(self, request: pb.PingRequest, context: object) -> pb.PingReply:
        return pb.PingReply(phase=self.phase)

    async def check_health(self, request: pb.CheckHealthRequest, context: object) -> pb.CheckHealthReply:
        return pb.CheckHealthReply(healthy=not self.behaviour.unhealthy, message="the check fails")

    async def reconfigure(self, request: pb.ReconfigureRequest, context: object) -> pb.ReconfigureReply:
        return pb.ReconfigureReply()

    async def drain(self, request: pb.DrainRequest, context: object) -> pb.DrainReply:
        self.machine.world.invariants.stopped_by_agent(self, "drain")
        self.drain_begins()
        return pb.DrainReply()

    async def dump_stacks(self, request: pb.DumpStacksRequest, context: object) -> pb.DumpStacksReply:
        return pb.DumpStacksReply(text="in its constructor")

    async def metrics(self, request: pb.MetricsRequest, context: object) -> pb.MetricsReply:
        return pb.MetricsReply()

    def __repr__(self) -> str:
        return (
            f"<SimReplica {self.replica_id}.{self.incarnation} {pb.ReplicaPhase.Name(self.phase)} alive={self.alive}>"
        )
