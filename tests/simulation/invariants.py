"""What must hold at every moment, told of each transaction, each fork and each word of an agent to a process.

Numbers are those of the fault list: I1 one leader's writes a term, I2 no device twice; I3 is `floor`'s, I7
`rest`'s, those of requests are `callers`'. A broken one is remembered, with the moment; the story ends with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from serve_rt.agents.intake import Answer, Reading
from serve_rt.agents.launcher.records import SpawnSpec
from serve_rt.etcd.values import Compare, Delete, Put
from serve_rt.model.node import NodeRecord
from serve_rt.model.replica import Assignment, Goal
from serve_rt.wire.records import decode
from tests.simulation.floor import Floor

if TYPE_CHECKING:
    from tests.simulation.agent import SimParts
    from tests.simulation.machine import SimMachine
    from tests.simulation.replica import SimReplica
    from tests.simulation.world import SimWorld

WHOLE = 1000


class Invariants:
    def __init__(self, world: SimWorld) -> None:
        self.world = world
        self.broken: list[str] = []
        self.over = False
        """The story has ended: what is torn down now is nobody's act."""
        self.floor = Floor(world)
        self._leader_of: dict[int, str] = {}
        """Which client took the leader key, by epoch."""
        self._epochs: dict[str, tuple[str, int]] = {}
        """The highest epoch each machine has acted on, in which life of the store."""

    def failed(self, what: str) -> None:
        if not self.over:
            self.broken.append(f"{self.world.now:.3f}: {what}")
            self.world.note("BROKEN", what)

    # --- the store ------------------------------------------------------------------------------------------------

    def transaction(self, client: str, compares: Sequence[Compare], then: Sequence[Put | Delete], done: bool) -> None:
        if self.over or not done or not then:
            return
        keys = [operation.key.removeprefix(self.world.keys.all) for operation in then]
        self.world.note("write", client, self.world.etcd.machine.revision, *sorted(keys))
        if client.startswith("controller"):
            self._controller_wrote(client, then)
            self.floor.controller_wrote(then)
        elif client.startswith("agent"):
            self._agent_wrote(client, keys)
        if any(key.startswith("assign/") for key in keys):
            self._devices_granted_once()

    def _controller_wrote(self, client: str, then: Sequence[Put | Delete]) -> None:
        leader_key = self.world.keys.leader
        holder = self.world.etcd.machine.get(leader_key)
        if any(operation.key == leader_key for operation in then):
            if holder is not None and isinstance(then[0], Put):
                self._took_the_lead(client, holder.create_revision)
            return
        if holder is None or self._leader_of.get(holder.create_revision) != client:
            self.failed(f"I1: {client} wrote {then[0].key} and does not lead")

    def _took_the_lead(self, client: str, epoch: int) -> None:
        """Or writes its own key anew, so that nothing older comes after."""
        if epoch not in self._leader_of:
            self._leader_of[epoch] = client
            self.world.note("elected", client)
        elif self._leader_of[epoch] != client:
            self.failed(f"I1: {client} takes the key of {self._leader_of[epoch]}, which lives")

    def _agent_wrote(self, client: str, keys: list[str]) -> None:
        """Only the registered session speaks for a node."""
        session = client.removeprefix("agent ")
        name = session.partition("/")[0]
        if not any(key.startswith("observed/") for key in keys):
            return
        found = self.world.etcd.machine.get(self.world.keys.node(self.world.machines[name].node_id))
        if found is None or decode(found.value, NodeRecord, source="node").session != session:
            self.failed(f"I1: {client} wrote what {name} observes and is not registered")

    def _devices_granted_once(self) -> None:
        granted: Counter[str] = Counter()
        for assignment in self.world.assignments().values():
            for share in assignment.devices:
                granted[share.uuid] += share.milli
        for uuid, milli in granted.items():
            if milli > WHOLE:
                self.failed(f"I2: {uuid} is granted {milli} times a thousandth")

    # --- agents ---------------------------------------------------------------------------------------------------

    def watch_agent(self, machine: SimMachine, parts: SimParts) -> None:
        apply = parts.supervisor.apply

        def watched(reading: Reading) -> Answer:
            answer = apply(reading)
            if answer is Answer.APPLY and reading.pushed and not self.over:
                self._acted_on(machine, reading)
            self.world.happened[f"reading {answer.name} {'pushed' if reading.pushed else 'watched'}"] += 1
            return answer

        parts.supervisor.apply = watched  # type: ignore[method-assign]  # a tap

    def _acted_on(self, machine: SimMachine, reading: Reading) -> None:
        life, epoch = self._epochs.get(machine.name, ("", 0))
        if life == reading.store_incarnation and reading.epoch < epoch:
            self.failed(f"I1: {machine.name} acts on a push of epoch {reading.epoch} and has seen {epoch}")
        self._epochs[machine.name] = (reading.store_incarnation, max(reading.epoch, epoch if life else 0))

    # --- processes ------------------------------------------------------------------------------------------------

    def may_start(self, machine: SimMachine, spec: SpawnSpec, assignment: Assignment) -> None:
        for other in self.world.machines.values():
            for replica in other.replicas:
                if replica.replica_id == assignment.replica_id:
                    self.failed(f"{spec.name}.{spec.incarnation} starts beside {replica}")
        if any(name == spec.name for name, _ in machine.left_behind):
            self.failed(f"{spec.name}.{spec.incarnation} starts beside what its former process left behind")
        for share in assignment.devices:
            users = [r for r in machine.held.values() if any(s.uuid == share.uuid for s in r.assignment.devices)]
            used = sum(s.milli for r in users for s in r.assignment.devices if s.uuid == share.uuid)
            if used + share.milli > WHOLE:
                self.failed(f"I2: {spec.name} starts on {share.uuid}, which {users} hold")

    def stopped_by_agent(self, replica: SimReplica, how: str) -> None:
        """An agent tells a process to end: only one that is sick or not wanted any more."""
        self.world.note("stop", replica.replica_id, replica.incarnation, how)
        if self.over or not replica.healthy:
            return
        self.floor.drained(replica)
        wanted = self.world.assignments().get(replica.replica_id)
        if how == "kill":
            self.failed(f"killed: {replica} is well, and was not drained")
        if wanted is not None and wanted.goal is Goal.RUN:
            self.failed(f"needless: {replica} is well and wanted, and is told to end ({how})")

    def ended(self, replica: SimReplica) -> None:
        """A process is gone."""
        if replica.was_ready:
            self.floor.fell(replica)
