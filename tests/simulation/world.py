"""One simulated cluster: machines, etcd, wires, users; everything of one seed.

    with SimWorld(seed) as world:
        world.run_for(600.0)

All the code of controllers and agents is the real one; see README.md for what stands in. `note` writes the history: two
runs of one seed have the same one, and its hash is what the determinism test compares.
"""

from __future__ import annotations

import asyncio
import enum
import hashlib
import itertools
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import TypeVar
from unittest.mock import patch

from serve_rt.agents.proc_state import ProcSample
from serve_rt.controller.settings import ControlSettings
from serve_rt.etcd.keys import Keys
from serve_rt.model.cluster import Cluster
from serve_rt.model.ids import ReplicaId
from serve_rt.model.replica import Assignment
from serve_rt.model.transitions import S, Transitions, move
from serve_rt.routing.exchange import Exchange
from serve_rt.routing.link import Link
from serve_rt.store.fold import Change, Fold
from serve_rt.testing.fake_etcd import FakeEtcd
from serve_rt.testing.sim_loop import LoopClock, SimLoop
from serve_rt.testing.sim_network import SimNetwork
from serve_rt.testing.sim_pipe import Wires
from serve_rt.transport.server_stream import ServerStream
from serve_rt.wire.records import decode
from tests.simulation.callers import Caller, Requests, watch_placing
from tests.simulation.invariants import Invariants
from tests.simulation.machine import SimMachine, token_file
from tests.simulation.replica import Behaviour, SimReplica
from tests.simulation.users import Users

T = TypeVar("T")
MACHINES = {"a": (4000, 0), "b": (4000, 1), "c": (6000, 2)}
"""milli-CPU and GPUs."""
KEPT_NOTES = 4000
USER_CODE = {
    "slow": Behaviour(construct_s=4.0, drain_s=3.0),
    "raises": Behaviour(raises=True),
    "stuck": Behaviour(never_ready=True),
    "crashes": Behaviour(crashes_after_s=2.0),
    "clings": Behaviour(ignores_drain=True),
    "forks": Behaviour(leaves_child=True),
}
"""By the last word of a version."""
CALLERS = ("a", "c")
INGRESSES = ("d", "e")
"""What the inner deployment of an application with two is not called."""
SLOWER = {
    "serve_rt.controller.loop.LOOK_AT_DEMAND_S": 2.0,
    "serve_rt.agents.api_server._REPORT_EVERY_S": 3.0,
    "serve_rt.agents.probe.PERIOD_S": 2.0,
    "serve_rt.agents.probe.PERIOD_WHILE_SILENT_S": 1.0,
    "serve_rt.transport.client.TICK_S": 2.0,
    "serve_rt.routing.demand.SAMPLES": 1,
}
"""What only shows that somebody lives is done less often: it is most of the work of a quiet minute."""
TELL_TIME = ("demand", "exchange", "feed", "link", "replica_set", "router", "tally")
"""Modules of routing, and of transport, that read a monotonic clock of their own."""
TELL_TIME_TOO = ("client", "client_stream", "server_stream")


class SimWorld:
    """*Resources*: a context manager; on leaving every task has ended and the loop is closed."""

    def __init__(self, seed: int, settings: ControlSettings | None = None) -> None:
        self.seed = seed
        self.settings = settings or ControlSettings()
        self.keys = Keys("sim")
        self.pids = 0
        self.by_pid: dict[int, SimReplica] = {}
        self.history: list[str] = []
        self.happened: Counter[str] = Counter()
        """Kinds of events and faults, for coverage."""
        self.cut_from_etcd: Counter[str] = Counter()
        self.etcd_stopped = False
        self.starts_to_fail = 0
        self.starts_to_hang = 0
        self._assigned: dict[str, tuple[int, Assignment]] = {}
        self._assigned_at = 0
        self._digest = hashlib.sha256()
        self._random_before = random.getstate()
        random.seed(seed)  # the jitter of what runs here
        self._patches = ExitStack()
        self._patches.enter_context(patch("secrets.token_hex", lambda size: random.randbytes(size).hex()))
        self._patches.enter_context(patch("serve_rt.agents.probe.sample", self.sample))
        for table in ("serve_rt.agents.life_cycle.move", "serve_rt.controller.rollout.move"):
            self._patches.enter_context(patch(table, self._move))
        for name, value in {**SLOWER, "serve_rt.store.fold.decode": _decoded_once}.items():
            self._patches.enter_context(patch(name, value))
        self.files: dict[str, bytes] = {}
        """What agents write of their routes; it outlives them."""
        self._patches.enter_context(patch("serve_rt.agents.feed._save", self._save))
        self._patches.enter_context(patch("serve_rt.agents.feed._load", self._load))
        self.requests = Requests(self)
        self.removed: dict[ReplicaId, int] = {}
        """Replicas of lives whose deletion was acknowledged, and at which revision."""
        order = itertools.count()
        for kept_in_sets in (Link, ServerStream):
            self._patches.enter_context(patch.object(kept_in_sets, "__hash__", lambda each: _number(each, order)))
        placing = watch_placing(self, Exchange.put_on)
        self._patches.enter_context(patch.object(Exchange, "put_on", placing))
        self._folder = tempfile.TemporaryDirectory(prefix="srt-sim-")
        self.token_path = token_file(Path(self._folder.name))
        self.loop = SimLoop(seed)
        self.clock = LoopClock(self.loop)
        for module in (*(f"routing.{name}" for name in TELL_TIME), *(f"transport.{name}" for name in TELL_TIME_TOO)):
            self._patches.enter_context(patch(f"serve_rt.{module}.time", _Time(self.loop)))
        self.network = SimNetwork(self.loop, Wires(self.loop))
        self.etcd = FakeEtcd(clock=self.clock)
        self.invariants = Invariants(self)
        self.etcd.on_txn(self.invariants.transaction)
        self.machines = {
            name: SimMachine(self, name, milli_cpu=cpu, gpus=gpus) for name, (cpu, gpus) in MACHINES.items()
        }

        self.users = Users(self)

    # --- running --------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        self.invariants.floor.look_at_nodes()
        for machine in self.machines.values():
            machine.start_agent()
            machine.start_controller()
            machine.calls_from_here = machine.name in CALLERS
            machine.start_caller()

    @property
    def callers(self) -> list[Caller]:
        return [machine.caller for machine in self.machines.values() if machine.caller is not None]

    def deleted(self, app: str, revision: int) -> None:
        """The deletion of an application is acknowledged: what there is of its ingress belongs to the past. What that
        calls stays until its last request has ended."""
        every = self.assignments().items()
        gone = (replica for replica, each in every if each.app == app and each.spec.name in INGRESSES)
        self.removed |= dict.fromkeys(gone, revision)

    def _save(self, path: Path, data: bytes) -> None:
        self.files[str(path)] = data

    def _load(self, path: Path, kind: type[T]) -> T | None:
        data = self.files.get(str(path))
        return decode(data, kind, source=str(path)) if data is not None else None

    @property
    def now(self) -> float:
        return self.loop.time()

    def run_for(self, seconds: float) -> None:
        self.loop.run_until_complete(_nothing(seconds))

    def later(self, delay_s: float, call: Callable[[], object]) -> None:
        """As an act of the world, not of any process."""
        self.network.wires.later(delay_s, call)

    def leading(self) -> SimMachine | None:
        """Whose controller holds the leader key."""
        leader = self.cluster().leader
        return self.machines.get(leader.node_id) if leader is not None else None

    def behaviour(self, assignment: Assignment) -> Behaviour:
        """Of a process that starts now: by its version's word after "-", unless a fault says otherwise."""
        usual = USER_CODE.get(assignment.spec.version.rpartition("-")[2], Behaviour())
        if self.starts_to_fail:
            self.starts_to_fail -= 1
            return replace(usual, raises=True)
        if self.starts_to_hang:
            self.starts_to_hang -= 1
            return replace(usual, never_ready=True)
        return usual

    def sample(self, pid: int) -> ProcSample:
        """What /proc would say."""
        replica = self.by_pid.get(pid)
        if replica is None or not replica.alive:
            return ProcSample("", 0, 0)
        return ProcSample("T" if replica.process.paused else "S", 0, pid)

    def cut_machine_from_etcd(self, name: str) -> None:
        """Calls hang until their time is up, watches are silent."""
        self.cut_from_etcd[name] += 1
        for store in self.machines[name].stores.values():
            store.freeze()

    def heal_machine_to_etcd(self, name: str) -> None:
        self.cut_from_etcd[name] -= 1
        if not self.cut_from_etcd[name]:
            for store in self.machines[name].stores.values():
                store.thaw()

    # --- what happened --------------------------------------------------------------------------------------------

    def note(self, what: str, *details: object) -> None:
        self.happened[what] += 1
        line = f"{self.now:10.4f} {what} {' '.join(map(str, details))}"
        self._digest.update(line.encode())
        self.history.append(line)
        if len(self.history) > KEPT_NOTES:
            del self.history[: KEPT_NOTES // 2]

    def _move(self, table: Transitions[S], old: S, new: S, subject: str, history: tuple[str, ...] = ()) -> S:
        """As `model.transitions.move`, counted."""
        moved = move(table, old, new, subject, history)
        if new is not old:
            self.happened[transition(old, new)] += 1
        return moved

    @property
    def hash(self) -> str:
        """Of everything noted, every revision of the store, and how many steps it took."""
        end = f"{self.etcd.machine.revision} {self.loop.steps} {self.now}"
        return hashlib.sha256(self._digest.digest() + end.encode()).hexdigest()

    def cluster(self) -> Cluster:
        """What the store says, read by nobody's client."""
        fold = Fold()
        snapshot = self.etcd.machine.snapshot(self.keys.all)
        changes = [
            Change(kv.key.removeprefix(self.keys.all), kv.value, kv.mod_revision, kv.create_revision)
            for kv in snapshot.items.values()
        ]
        fold.restart(changes, snapshot.revision, self.now)
        return fold.cluster

    def assignments(self) -> Mapping[ReplicaId, Assignment]:
        """As the store has them now; decoded once per change."""
        machine = self.etcd.machine
        if self._assigned_at != machine.revision:
            self._assigned_at = machine.revision
            known = self._assigned
            self._assigned = {}
            prefix = self.keys.assign_prefix()
            for kv in machine.snapshot(prefix).items.values():
                before = known.get(kv.key)
                fresh = before is None or before[0] != kv.mod_revision
                value = decode(kv.value, Assignment, source=kv.key) if before is None or fresh else before[1]
                self._assigned[kv.key] = (kv.mod_revision, value)
        return {assignment.replica_id: assignment for _, assignment in self._assigned.values()}

    # --- the end --------------------------------------------------------------------------------------------------

    def __enter__(self) -> SimWorld:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.invariants.over = True
            self.loop.end()
            self.loop.run_until_complete(self.etcd.close())
        finally:
            self.loop.close()
            self._patches.close()
            random.setstate(self._random_before)
            self._folder.cleanup()


@lru_cache(maxsize=4096)
def _decoded_once(data: bytes, kind: type[T], *, source: str) -> T:
    """Six mirrors read every record; what they read is frozen."""
    return decode(data, kind, source=source)


def transition(old: enum.Enum, new: enum.Enum) -> str:
    return f"{type(old).__name__} {old.name} -> {new.name}"


def _number(each: object, order: Iterator[int]) -> int:
    """For sets: walked in an order that does not depend on addresses."""
    number: int = each.__dict__.setdefault("_order", 0) or next(order) + 1
    each.__dict__["_order"] = number
    return number


class _Time:
    """As the module `time`, for code that has no `Clock`."""

    def __init__(self, loop: SimLoop) -> None:
        self.monotonic = loop.time

    def monotonic_ns(self) -> int:
        return int(self.monotonic() * 1e9)


async def _nothing(seconds: float) -> None:
    await asyncio.sleep(seconds)
