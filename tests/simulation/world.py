"""One simulated cluster: machines, etcd, wires, users; everything of one seed.

    with SimWorld(seed) as world:
        world.run_for(600.0)

All the code of controllers and agents is the real one; see README.md for what stands in. `note` writes the history: two
runs of one seed have the same one, and its hash is what the determinism test compares.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from unittest.mock import patch

from serve_rt.controller.settings import ControlSettings
from serve_rt.etcd.keys import Keys
from serve_rt.model.cluster import Cluster
from serve_rt.model.ids import ReplicaId
from serve_rt.model.replica import Assignment
from serve_rt.store.fold import Change, Fold
from serve_rt.testing.fake_etcd import FakeEtcd
from serve_rt.testing.sim_loop import LoopClock, SimLoop
from serve_rt.testing.sim_network import SimNetwork
from serve_rt.testing.sim_pipe import Wires
from serve_rt.wire.records import decode
from tests.simulation.invariants import Invariants
from tests.simulation.machine import SimMachine, token_file
from tests.simulation.replica import Behaviour
from tests.simulation.users import Users

MACHINES = {"a": (4000, 0), "b": (4000, 1), "c": (6000, 2)}
"""milli-CPU and GPUs."""
KEPT_NOTES = 4000


class SimWorld:
    """*Resources*: a context manager; on leaving every task has ended and the loop is closed."""

    def __init__(self, seed: int, settings: ControlSettings | None = None) -> None:
        self.seed = seed
        self.settings = settings or ControlSettings()
        self.keys = Keys("sim")
        self.pids = 0
        self.history: list[str] = []
        self.happened: Counter[str] = Counter()
        """Kinds of events and faults, for coverage."""
        self.cut_from_etcd: Counter[str] = Counter()
        self.user_code: dict[str, Behaviour] = {}
        """By the version's suffix after "-"."""
        self._assigned: dict[str, tuple[int, Assignment]] = {}
        self._assigned_at = 0
        self._digest = hashlib.sha256()
        self._random_before = random.getstate()
        random.seed(seed)  # the jitter of what runs here
        self._seeded = patch("secrets.token_hex", lambda size: random.randbytes(size).hex())
        self._seeded.start()
        self._folder = tempfile.TemporaryDirectory(prefix="srt-sim-")
        self.token_path = token_file(Path(self._folder.name))
        self.loop = SimLoop(seed)
        self.clock = LoopClock(self.loop)
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
        for machine in self.machines.values():
            machine.start_agent()
            machine.start_controller()

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
        return self.user_code.get(assignment.spec.version.rpartition("-")[2], Behaviour())

    # --- what happened --------------------------------------------------------------------------------------------

    def note(self, what: str, *details: object) -> None:
        self.happened[what] += 1
        line = f"{self.now:10.4f} {what} {' '.join(map(str, details))}"
        self._digest.update(line.encode())
        self.history.append(line)
        if len(self.history) > KEPT_NOTES:
            del self.history[: KEPT_NOTES // 2]

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
            self._seeded.stop()
            random.setstate(self._random_before)
            self._folder.cleanup()


async def _nothing(seconds: float) -> None:
    await asyncio.sleep(seconds)
