"""Makes the node run its assignments: one Keeper per replica, one loop that steps them.

Input comes by two roads that carry the same thing (the mirror's watch, the leader's push: `apply`), from the launcher
(`exited`) and from the disk at start (`adopt`). Output is what it observes: written to etcd by `observations`, sent on
the leader's stream, laid over the routes. It never asks who should run what.

A replica is stopped only after a reading without it, in the same life of the store and not older than the newest. What
runs here and is in no assignment is left alone and reported: a wiped store must not stop a service.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import msgspec

from serve_rt.agents import life_cycle
from serve_rt.agents.devices import WHOLE
from serve_rt.agents.feed import LocalReplica
from serve_rt.agents.intake import Answer, Reading, after, judge_reading
from serve_rt.agents.keeper import Keeper
from serve_rt.agents.launcher.records import Exit, Handle, ProcessKind
from serve_rt.agents.launcher_link import LauncherLink
from serve_rt.agents.life_cycle import Process, Record
from serve_rt.agents.memory import AgentMemory, Copy, HighWater
from serve_rt.agents.node import ThisNode
from serve_rt.agents.starting import Starter
from serve_rt.aio import Clock
from serve_rt.config.protections import Protection, enabled
from serve_rt.errors import ServeException
from serve_rt.model.ids import ReplicaId
from serve_rt.model.replica import Assignment, Goal, Observed
from serve_rt.model.starts import ReplicaStart

log = logging.getLogger(__name__)
_HIGH_WATER_STEP = 50
"""Revisions between two writes of the high-water mark when nothing else changed."""
_AWAY_S = 2.0
"""So late for a step we come only when this process, or the machine, did not run."""
_CATCH_UP_S = 0.5


class Supervisor:
    """*Resources*: `run()` is the owner's eternal task; `close()` lets the processes go on."""

    def __init__(
        self,
        node: ThisNode,
        launcher: LauncherLink,
        starter: Starter,
        memory: AgentMemory,
        clock: Clock,
        on_change: Callable[[ReplicaId], None],
        on_learned: Callable[[tuple[str, ...]], None],
    ) -> None:
        self._node, self._launcher, self._starter, self._memory = node, launcher, starter, memory
        self._clock = clock
        self._on_change = on_change
        self._on_learned = on_learned
        self._keepers: dict[ReplicaId, Keeper] = {}
        self._high_water = HighWater()
        self._saved_high_water = HighWater()
        self._wake = asyncio.Event()
        self._leaving = False

    @property
    def high_water(self) -> HighWater:
        return self._high_water

    def keepers(self) -> Iterable[Keeper]:
        return self._keepers.values()

    def observed(self) -> dict[ReplicaId, Observed]:
        seen = ((keeper.replica_id, keeper.observed()) for keeper in self._keepers.values())
        return {replica: observed for replica, observed in seen if observed is not None}

    def local(self) -> Mapping[ReplicaId, LocalReplica]:
        return {
            replica: LocalReplica(
                state=keeper.record.state,
                running=keeper.record.process is Process.RUNNING,
                incarnation=keeper.record.incarnation,
                address=keeper.address,
            )
            for replica, keeper in self._keepers.items()
        }

    def ports(self) -> set[int]:
        return {keeper.copy.port for keeper in self._keepers.values() if keeper.copy.port}

    @property
    def idle(self) -> bool:
        """No process of any replica is left."""
        return all(keeper.record.gone for keeper in self._keepers.values())

    # --- at start -------------------------------------------------------------------------------------------------

    async def adopt(self, handles: Iterable[Handle]) -> int:
        """Take over what a former agent left, from its notes and from the handles; how many run on."""
        self._high_water = self._saved_high_water = self._memory.load_high_water()
        copies = self._memory.load()
        newest = _newest(handle for handle in handles if handle.kind is ProcessKind.REPLICA)
        left_over: set[ReplicaId] = set()
        for replica, handle in newest.items():
            if replica not in copies and (copy := _copy_from(handle)) is not None:
                copies[replica] = copy
                # The note goes with the assignment: a handle that outlived it is what a launcher that died meanwhile
                # did not hear of. Its process has ended, and nobody wants another one (found by simulation).
                left_over |= {replica} if handle.exited is not None else set()
        for replica, copy in copies.items():
            keeper = self._keepers[replica] = self._keeper(copy, copy.record())
            keeper.withdrawn = replica in left_over
        if not enabled(Protection.ADOPT):
            await self._kill_found(newest.values())
            return 0
        return sum(self._adopt_one(replica, handle) for replica, handle in newest.items())

    def _adopt_one(self, replica: ReplicaId, handle: Handle) -> bool:
        keeper = self._keepers.get(replica)
        if keeper is None:
            return False
        if handle.exited is None:
            state = keeper.copy.state
            keeper.record = replace(keeper.record, state=state)
            keeper.copy = _with_port_of(keeper.copy, handle)
            keeper.adopt(handle)
            return True
        # It ended while nobody looked: that counts like an end under our eyes.
        found = replace(keeper.record, incarnation=handle.incarnation, state=keeper.copy.state)
        keeper.record = life_cycle.adopted(found, handle.pid, self._clock.monotonic())
        keeper.exited(handle.exited)
        return False

    async def _kill_found(self, handles: Iterable[Handle]) -> None:
        """Without the protection: what is found is killed and started anew (negative control)."""
        for handle in handles:
            await self._launcher.kill_group(handle.name, handle.incarnation)
            await self._launcher.forget(handle.name, handle.incarnation)
            keeper = self._keepers.get(ReplicaId(handle.name))
            if keeper is not None:
                keeper.record = replace(keeper.record, incarnation=handle.incarnation)

    # --- input ----------------------------------------------------------------------------------------------------

    def apply(self, reading: Reading) -> Answer:
        """All assignments of this node, by watch or push; applying twice is a no-op."""
        answer = judge_reading(reading, self._high_water, fence=enabled(Protection.FENCE))
        if answer is not Answer.APPLY or self._leaving:
            return answer
        assignments = reading.by_id()
        for assignment in assignments.values():
            self._take(assignment, reading)
        for replica, keeper in self._keepers.items():
            if replica not in assignments and keeper.copy.store_incarnation == reading.store_incarnation:
                keeper.withdrawn = True
        self._note_high_water(after(reading, self._high_water))
        self._wake.set()
        return answer

    def _take(self, assignment: Assignment, reading: Reading) -> None:
        copy = Copy(assignment, store_incarnation=reading.store_incarnation, revision=reading.revision)
        keeper = self._keepers.get(assignment.replica_id)
        if keeper is not None:
            keeper.take(copy)
            return
        log.info("%s is ours to run", assignment.replica_id, extra={"action": "assignment_taken"})
        keeper = self._keepers[assignment.replica_id] = self._keeper(copy, copy.record())
        self._memory.save(copy)

    def exited(self, exit_: Exit) -> None:
        keeper = self._keepers.get(ReplicaId(exit_.name))
        if keeper is not None:
            keeper.exited(exit_)
            self._wake.set()

    def launcher_replaced(self, handles: Iterable[Handle]) -> None:
        """Another launcher speaks: what it does not know any more has ended unseen."""
        known = {(handle.name, handle.incarnation) for handle in handles}
        for keeper in self._keepers.values():
            record = keeper.record
            if record.process is Process.RUNNING and (keeper.replica_id, record.incarnation) not in known:
                keeper.exited(Exit.unseen(keeper.replica_id, ProcessKind.REPLICA, record.incarnation))

    def _note_high_water(self, value: HighWater) -> None:
        self._high_water = value
        saved = self._saved_high_water
        moved = (value.store_incarnation, value.epoch) != (saved.store_incarnation, saved.epoch)
        if moved or value.revision >= saved.revision + _HIGH_WATER_STEP:
            self._memory.save_high_water(value)
            self._saved_high_water = value

    # --- the loop -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled: step every keeper when something happened or is due."""
        while True:
            self._wake.clear()
            due = self._step_all()
            wait_s = None if due is None else max(0.0, due - self._clock.monotonic())
            try:
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            except TimeoutError:
                pass
            if due is not None and self._clock.monotonic() - due > _AWAY_S:
                # We were stopped ourselves. What replicas said meanwhile is read first: one that got ready would be
                # killed for starting too long (found by simulation).
                await asyncio.sleep(_CATCH_UP_S)

    def _step_all(self) -> float | None:
        dues: list[float] = []
        for replica, keeper in list(self._keepers.items()):
            try:
                due = keeper.step()
            except ServeException:  # an illegal move is a bug in one replica's history; the others go on
                log.exception("cannot step %s", replica, extra={"action": "step_failed"})
                due = self._clock.monotonic() + 1.0
            if due is not None:
                dues.append(due)
            if keeper.forgotten:
                del self._keepers[replica]
        return min(dues, default=None)

    def drain_all(self) -> None:
        """The node leaves: every replica drains, and none is started any more."""
        self._leaving = True
        for keeper in self._keepers.values():
            keeper.copy = replace(keeper.copy, assignment=replace(keeper.copy.assignment, goal=Goal.DRAIN))
        self._wake.set()

    async def close(self) -> None:
        for keeper in self._keepers.values():
            await keeper.close()
        if self._high_water != self._saved_high_water and not self._leaving:
            self._memory.save_high_water(self._high_water)

    def _keeper(self, copy: Copy, record: Record) -> Keeper:
        return Keeper(
            copy,
            record,
            self._node,
            self._launcher,
            self._starter,
            self._memory,
            self._clock,
            self._keeper_changed,
            self._on_learned,
            self._devices_free,
        )

    def _devices_free(self, keeper: Keeper) -> bool:
        """Does everybody who still runs here leave room for it? The leader offers a device when no record names it; of
        a node that was cut off while an application was deleted, records are gone before their processes (found by
        simulation)."""
        taken: Counter[str] = Counter()
        for other in self._keepers.values():
            if other is not keeper and not other.record.gone:
                taken.update({share.uuid: share.milli for share in other.copy.assignment.devices})
        return all(taken[share.uuid] + share.milli <= WHOLE for share in keeper.copy.assignment.devices)

    def _keeper_changed(self, keeper: Keeper) -> None:
        self._wake.set()
        self._on_change(keeper.replica_id)


def _newest(handles: Iterable[Handle]) -> dict[ReplicaId, Handle]:
    newest: dict[ReplicaId, Handle] = {}
    for handle in handles:
        replica = ReplicaId(handle.name)
        if replica not in newest or handle.incarnation > newest[replica].incarnation:
            newest[replica] = handle
    return newest


def _copy_from(handle: Handle) -> Copy | None:
    """A process without a note: its own start says what it is. No life of the store has claimed it yet."""
    start = _replica_start(handle)
    if start is None:
        return None
    return Copy(start.assignment, port=start.port, incarnation=handle.incarnation)


def _with_port_of(copy: Copy, handle: Handle) -> Copy:
    """The port the process really has: the former agent may have died before it noted it."""
    start = _replica_start(handle)
    return replace(copy, port=start.port) if start is not None else copy


def _replica_start(handle: Handle) -> ReplicaStart | None:
    try:
        return msgspec.convert(handle.spec.start, ReplicaStart)
    except msgspec.ValidationError as error:
        log.error("handle of %s is not understood: %s", handle.name, error, extra={"action": "handle_damaged"})
        return None
