"""Bugs planted on purpose, to measure the simulation: each takes one care away, while a story is told.

    pytest -m chaos tests/simulation/test_planted.py -s     # what finds each now

Nothing of this is in the product: a bug is a patch of one function, for the time of a `with`. Used by test_planted.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

from serve_rt.agents import intake, life_cycle
from serve_rt.agents.intake import Answer, Reading
from serve_rt.agents.keeper import Keeper
from serve_rt.agents.launcher.records import Exit
from serve_rt.agents.life_cycle import Process, Record
from serve_rt.agents.memory import HighWater
from serve_rt.agents.registration import Registration
from serve_rt.config.protections import Protection, enabled
from serve_rt.controller import rollout, room
from serve_rt.controller.census import Member, NodeStanding
from serve_rt.controller.deployment import _Work
from serve_rt.controller.rollout import Standing, Steps
from serve_rt.errors import ServeException
from serve_rt.etcd.election import Leadership
from serve_rt.etcd.values import Compare, Delete, Put, Snapshot, TxnResult
from serve_rt.model.cluster import DeploymentMemory
from serve_rt.model.resources import DeviceShare
from serve_rt.routing.exchange import Exchange
from serve_rt.store.mirror import Mirror
from serve_rt.store.writer import NodeWriter
from serve_rt.transport.server_request import ServerRequest
from serve_rt.wire.records import encode
from tests.simulation.story import tell

Patch = tuple[str, object]
"""What is replaced, and by what."""


@dataclass(frozen=True, slots=True)
class Bug:
    name: str
    patches: tuple[Patch, ...]

    @contextmanager
    def planted(self) -> Iterator[None]:
        with ExitStack() as stack:
            for target, value in self.patches:
                stack.enter_context(patch(target, value))
            yield


# --- the store and the leader -------------------------------------------------------------------------------------


async def _write_unfenced(
    self: Leadership, then: Sequence[Put | Delete], compares: Sequence[Compare] = (), read: Sequence[str] = ()
) -> TxnResult:
    return await self._store.txn(compares, then, read)


async def _take_over(self: Any) -> int:  # Any: election's own class
    result = await self._store.txn([], [Put(self._key, self._value, self._session.lease)], [])
    return int(result.revision)


_take_change = Mirror._take


def _take_no_list_twice(self: Mirror, change: Any) -> None:
    if not (isinstance(change, Snapshot) and self.synced.is_set()):
        _take_change(self, change)


async def _observe_unfenced(self: NodeWriter, observed: Iterable[Any], gone: Iterable[Any] = ()) -> int:
    ops: list[Put | Delete] = [Put(self._keys.observed(self._node, each.replica_id), encode(each)) for each in observed]
    ops += [Delete(self._keys.observed(self._node, replica)) for replica in gone]
    return (await self._store.txn([], ops)).revision


# --- agents -------------------------------------------------------------------------------------------------------


_judge = intake.judge_reading


def _judge_no_epoch(reading: Reading, seen: HighWater, *, fence: bool) -> Answer:
    return _judge(reading, seen, fence=False)


def _judge_no_revision(reading: Reading, seen: HighWater, *, fence: bool) -> Answer:
    answer = _judge(reading, seen, fence=fence)
    return Answer.APPLY if answer is Answer.OLD and reading.store_incarnation else answer


def _enabled_but_adopt(protection: Protection) -> bool:
    return protection is not Protection.ADOPT and enabled(protection)


_died = life_cycle.died


def _died_and_swept(record: Record, how: str, retries: int, now: float) -> Record:
    return replace(_died(record, how, retries, now), process=Process.NONE)


async def _free_at_once(*_: object) -> str:
    return ""


def _exited_counted_twice(self: Keeper, exit_: Exit) -> None:
    if exit_.incarnation != self.record.incarnation or self.record.process is Process.NONE:
        return
    self._dead.set()
    self._died(exit_)


async def _sweep_handle_first(self: Keeper, incarnation: int, pid: int) -> None:
    with suppress(ServeException):
        await self._launcher.kill_group(self.replica_id, incarnation)
    await self._forget_handle(incarnation)
    await self._starter.devices.until_free(self.copy.assignment.devices, pid)
    self._set(life_cycle.swept(self.record, self._clock.monotonic()))


async def _update_when_registered(self: Registration) -> None:
    if self._writer is not None:
        try:
            await self._writer.update(self._record())
        except ServeException:
            return


_drop_session = Registration._drop_session


async def _drop_session_and_replicas(self: Registration) -> None:
    """A lost lease taken for the end of the node."""
    await _drop_session(self)
    owner = getattr(self._record, "__self__", None)  # the parts whose record it registers
    if owner is not None:
        for keeper in list(owner.supervisor.keepers()):
            if keeper.record.process is Process.RUNNING:
                await owner._launcher.kill_group(keeper.replica_id, keeper.record.incarnation)


async def _kill_for_drain(self: Keeper, timeout_s: float, at_once: bool) -> None:
    await self._launcher.kill_group(self.replica_id, self.record.incarnation)


_decide = life_cycle.decide


def _start_again_as_the_same(assignment: Any, record: Record, now: float) -> tuple[Any, ...]:
    actions = _decide(assignment, record, now)
    return tuple(
        life_cycle.Start(max(1, record.incarnation)) if isinstance(each, life_cycle.Start) else each for each in actions
    )


# --- decisions ----------------------------------------------------------------------------------------------------

_devices_of = room.devices_of


def _devices_of_wanted(member: Member) -> tuple[DeviceShare, ...]:
    return _devices_of(member) if member.wanted else ()


_next_steps = rollout.next_steps


def _one_too_many(standing: Standing, percent: int, *, surge: bool = True) -> Steps:
    steps = _next_steps(standing, percent, surge=surge)
    return replace(steps, drain_old=min(standing.old, steps.drain_old + 1))


def _old_ones_at_once(standing: Standing, percent: int, *, surge: bool = True) -> Steps:
    return _next_steps(standing, percent, surge=False)


def _keep_both(self: _Work) -> bool:
    return any(m.assignment is not None and m.assignment.superseded_by for m in self.groups.new)


_refuse = rollout.refuse


def _refuse_to_the_same(memory: DeploymentMemory, reason: str, now_wall: float) -> DeploymentMemory:
    refused = _refuse(memory, reason, now_wall)
    return replace(refused, target=memory.target) if refused.target != memory.target else refused


def _route_of_all(self: _Work) -> None:
    self.drained.clear()
    _route(self)


_route = _Work.route


def _lost_at_once(gone_s: float, suspended: bool, settings: object) -> NodeStanding:
    return NodeStanding.LOST


def _never_us(*_: object) -> bool:
    return False


def _never_reborn(*_: object) -> bool:
    return False


# --- requests -----------------------------------------------------------------------------------------------------


def _always_again(*_: object) -> bool:
    return True


def _no_deadline(self: Exchange) -> None:
    """It hangs on."""


def _slot_kept_after_cancel(self: ServerRequest) -> None:
    if not self.cancelled:
        _finished(self)


_finished = ServerRequest.finished


def _still_waiting(self: object, exchange: Exchange) -> None:
    """It stays in the line."""


BUGS = (
    Bug("no fencing compare", (("serve_rt.etcd.election.Leadership.write", _write_unfenced),)),
    Bug("elected over a living leader", (("serve_rt.etcd.election.Election._take", _take_over),)),
    Bug("no list after a compaction", (("serve_rt.store.mirror.Mirror._take", _take_no_list_twice),)),
    Bug("stale session's writes accepted", (("serve_rt.store.writer.NodeWriter.observe", _observe_unfenced),)),
    Bug("lower epoch accepted by agents", (("serve_rt.agents.supervisor.judge_reading", _judge_no_epoch),)),
    Bug("old news acted upon", (("serve_rt.agents.supervisor.judge_reading", _judge_no_revision),)),
    Bug("what is found is not adopted", (("serve_rt.agents.supervisor.enabled", _enabled_but_adopt),)),
    Bug("restart before the old group is gone", (("serve_rt.agents.life_cycle.died", _died_and_swept),)),
    Bug("device memory not waited for", (("serve_rt.agents.devices.Devices.until_free", _free_at_once),)),
    Bug("an end told twice counts twice", (("serve_rt.agents.keeper.Keeper.exited", _exited_counted_twice),)),
    Bug("handle forgotten before the memory is back", (("serve_rt.agents.keeper.Keeper._sweep", _sweep_handle_first),)),
    Bug("quarantine not waited for", (("serve_rt.agents.registration.Registration.update", _update_when_registered),)),
    Bug(
        "lease loss kills replicas",
        (("serve_rt.agents.registration.Registration._drop_session", _drop_session_and_replicas),),
    ),
    Bug("drain skipped", (("serve_rt.agents.keeper.Keeper._drain", _kill_for_drain),)),
    Bug("incarnation not counted on", (("serve_rt.agents.life_cycle.decide", _start_again_as_the_same),)),
    Bug("device freed while its process leaves", (("serve_rt.controller.room.devices_of", _devices_of_wanted),)),
    Bug("floor off by one", (("serve_rt.controller.deployment.next_steps", _one_too_many),)),
    Bug("old ones go first", (("serve_rt.controller.deployment.next_steps", _old_ones_at_once),)),
    Bug("superseded original kept", (("serve_rt.controller.deployment._Work._returning", _keep_both),)),
    Bug("rolled back to the bad version", (("serve_rt.controller.judging.refuse", _refuse_to_the_same),)),
    Bug("drained ones stay in the routes", (("serve_rt.controller.deployment._Work.route", _route_of_all),)),
    Bug("no grace for a lost node", (("serve_rt.controller.census._standing", _lost_at_once),)),
    Bug("mass vanish replaced", (("serve_rt.controller.census.most_vanished_at_once", _never_us),)),
    Bug("a former life answers", (("serve_rt.model.cluster.Cluster.is_reborn", _never_reborn),)),
    Bug("retried though it had started", (("serve_rt.routing.router.may_run_again", _always_again),)),
    Bug("deadline not kept", (("serve_rt.routing.exchange.Exchange._deadline_passed", _no_deadline),)),
    Bug(
        "slot not given back after a cancel",
        (("serve_rt.transport.server_request.ServerRequest.finished", _slot_kept_after_cancel),),
    ),
    Bug("withdrawn request stays in the line", (("serve_rt.routing.router.Router.withdrawn", _still_waiting),)),
)


STORY_ENDS = "the story ends"
"""What stands in place of a check when nothing can be told any more."""


@dataclass(frozen=True, slots=True)
class Found:
    bug: str
    seed: int
    seeds: int
    """How many stories it took."""
    what: str

    @property
    def check(self) -> str:
        return re.split(r"[:(]", self.what.partition(": ")[2])[0][:60]


def hunt(bug: Bug, seeds: Iterable[int]) -> Found | None:
    """Tell stories until one breaks."""
    for count, seed in enumerate(seeds, 1):
        with bug.planted():
            try:
                told = tell(seed)
            except Exception as error:  # a bug may end the story itself: that is found, too
                return Found(bug.name, seed, count, f"0: {STORY_ENDS}: {error!r}")
        if told.broken:
            return Found(bug.name, seed, count, told.broken[0])
    return None
