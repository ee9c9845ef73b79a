"""One simulated machine: power, its devices, the launcher with its children, the agent and the controller candidate.

Agent and controller are started again by whoever healed the fault that ended them. What a fault does to one machine is
a method here.
"""

from __future__ import annotations

import asyncio
import functools
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from serve_rt.agents.gpus import DeviceUse
from serve_rt.agents.launcher.records import Handle, SpawnSpec
from serve_rt.agents.node import ThisNode
from serve_rt.aio import TaskOwner, cancel_and_wait
from serve_rt.controller import main as controller_main
from serve_rt.model.ids import NodeId
from serve_rt.model.resources import Gpu, NodeResources
from serve_rt.model.starts import ControllerStart, EtcdAddress, ReplicaStart
from serve_rt.testing.fake_etcd import FakeEtcd
from serve_rt.testing.sim_loop import SimProcess, current_process
from tests.simulation.agent import PORT, Disk, SimParts, run_agent, sim_settings
from tests.simulation.callers import Caller
from tests.simulation.launcher import SimLauncher
from tests.simulation.replica import SimReplica
from tests.simulation.token import TOKEN

if TYPE_CHECKING:
    from tests.simulation.world import SimWorld

FIRST_PID = 1 << 23
"""Above every real process id: /proc must know nothing of ours."""
MEMORY_BACK_S = (0.0, 1.5)
GPU_BYTES = 16 << 30


class SimMachine:
    def __init__(self, world: SimWorld, name: str, *, milli_cpu: int, gpus: int) -> None:
        self.world, self.name = world, name
        devices = tuple(Gpu(f"GPU-{name}-{i}", i, "simulated", GPU_BYTES) for i in range(gpus))
        self.resources = NodeResources(milli_cpu, 32 << 30, devices)
        self.disk = Disk()
        self.state = sim_settings(name).state
        self.launcher = SimLauncher(self)
        self.boots = 1
        self.agent: SimProcess | None = None
        self.controller: SimProcess | None = None
        self.parts: SimParts | None = None
        self.stores: dict[str, FakeEtcd] = {}
        self.held: dict[tuple[str, int], SimReplica] = {}
        """What still holds devices: the processes, what they left behind, memory on its way back."""
        self.left_behind: set[tuple[str, int]] = set()
        self.memory_back_s: float | None = None
        """How long devices keep the memory of dead processes, if not as usual."""
        self.calls_from_here = False
        self.caller: Caller | None = None
        self._stop_controller: asyncio.Event | None = None
        self._sessions = 0

    @property
    def node_id(self) -> NodeId:
        return NodeId(self.name)

    @property
    def powered(self) -> bool:
        return self.world.network.wires.powered(self.name)

    @property
    def replicas(self) -> list[SimReplica]:
        return list(self.launcher.running.values())

    # --- agent and controller -------------------------------------------------------------------------------------

    def start_agent(self) -> None:
        if not self.powered or (self.agent is not None and self.agent.alive):
            return
        self._sessions += 1
        self.agent = self.world.network.process(f"agent {self.name}/{self._sessions}", self.name)
        self.agent.on_end.append(self._agent_ended)
        self.agent.start(run_agent(self, f"{self.name}/{self._sessions}"), name="main")

    def _agent_ended(self) -> None:
        self.parts = None

    def agent_failed(self, error: BaseException) -> None:
        """A task that must not end has ended: the process ends with it."""
        self.world.note("agent failed", self.name, repr(error))
        self.world.invariants.failed(f"the agent of {self.name} failed: {error!r}")

    def start_controller(self) -> None:
        if not self.powered or (self.controller is not None and self.controller.alive):
            return
        self._sessions += 1
        self.controller = self.world.network.process(f"controller {self.name}/{self._sessions}", self.name)
        self.controller.start(self._control(f"controller {self.name}/{self._sessions}"), name="main")

    async def _control(self, name: str) -> None:
        start = ControllerStart("sim", NodeId(self.name), self.name, str(self.world.token_path), EtcdAddress(()), "/")
        tasks = TaskOwner("controller", on_failure=self.controller_failed)
        async with AsyncExitStack() as stack:
            candidate, _ = await controller_main.serve_candidate(
                start, self.store(name), tasks, stack, self.world.settings, self.world.clock
            )
            stack.push_async_callback(tasks.close)
            stack.push_async_callback(cancel_and_wait, candidate)
            stop = self._stop_controller = asyncio.Event()
            await stop.wait()
        process = current_process()
        if process is not None:
            process.kill()

    def start_caller(self) -> None:
        if self.calls_from_here:
            self.caller = Caller(self, self.boots)

    def stop_controller(self) -> None:
        """SIGTERM: it resigns and ends."""
        if self._stop_controller is not None and self.controller is not None and self.controller.alive:
            self.controller.do(self._stop_controller.set)

    def controller_failed(self, error: BaseException) -> None:
        self.world.note("controller failed", self.name, repr(error))
        self.world.invariants.failed(f"the controller of {self.name} failed: {error!r}")

    def store(self, name: str) -> FakeEtcd:
        """A client of etcd for a process of this machine, in the state the machine's wire to etcd is in."""
        made = self.stores[name] = self.world.etcd.peer(name)
        made.delay_s = functools.partial(self.world.loop.random.uniform, 0.0005, 0.004)
        if self.world.cut_from_etcd[self.name]:
            made.freeze()
        return made

    def this_node(self, session: str) -> ThisNode:
        return ThisNode(
            settings=sim_settings(self.name),
            node_id=NodeId(self.name),
            session=session,
            boot_id=f"boot {self.boots}",
            token=TOKEN,
            resources=self.resources,
            address=f"{self.name}:{PORT}",
            etcd=EtcdAddress(()),
            hosts_etcd=False,
        )

    # --- processes ------------------------------------------------------------------------------------------------

    def fork(self, spec: SpawnSpec, start: ReplicaStart) -> Handle:
        world = self.world
        world.pids += 1
        pid = FIRST_PID + world.pids
        world.invariants.may_start(self, spec, start.assignment)
        behaviour = world.behaviour(start.assignment)
        replica = SimReplica(self, spec, start.assignment, start.port, pid, behaviour)
        handle = Handle(spec.kind, spec.name, spec.incarnation, spec, pid, boot_id=f"boot {self.boots}")
        self.launcher.handles[spec.key] = handle
        self.launcher.running[spec.key] = self.held[spec.key] = replica
        world.by_pid[pid] = replica
        world.note("forked", self.name, spec.name, spec.incarnation)
        return handle

    def replica_ended(self, replica: SimReplica) -> None:
        key = replica.spec.key
        self.world.note("ended", self.name, replica.replica_id, replica.incarnation)
        self.launcher.ended(replica)
        self.world.invariants.ended(replica)
        if replica.behaviour.leaves_child and self.powered:
            self.left_behind.add(key)
        else:
            self._memory_comes_back(key)

    def sweep(self, key: tuple[str, int]) -> None:
        """What a dead process left behind is killed too."""
        if key in self.left_behind:
            self.left_behind.discard(key)
            self._memory_comes_back(key)

    def _memory_comes_back(self, key: tuple[str, int]) -> None:
        drawn = self.world.loop.random.uniform(*MEMORY_BACK_S)
        delay = 0.0 if not self.powered else drawn if self.memory_back_s is None else self.memory_back_s
        self.world.later(delay, functools.partial(self.held.pop, key, None))

    def device_use(self, uuid: str) -> DeviceUse | None:
        users = [r for r in self.held.values() if any(share.uuid == uuid for share in r.assignment.devices)]
        return DeviceUse(len(users) * (4 << 30), frozenset(r.pid for r in users))

    # --- power ----------------------------------------------------------------------------------------------------

    def power_off(self) -> None:
        """Everything ends at once, and nobody is told."""
        self.world.network.wires.switch_off(self.name)
        self.launcher.powered_off()
        caller = self.caller.process if self.caller is not None else None
        for process in (self.agent, self.controller, caller, *(replica.process for replica in self.replicas)):
            if process is not None:
                process.kill()
        self.launcher.running.clear()
        self.held.clear()
        self.left_behind.clear()

    def power_on(self) -> None:
        self.boots += 1
        self.world.network.wires.switch_on(self.name)
        self.start_agent()
        self.start_controller()
        self.start_caller()

    def __repr__(self) -> str:
        return f"<SimMachine {self.name} {'on' if self.powered else 'off'} {self.replicas}>"


def token_file(folder: Path) -> Path:
    path = folder / "token"
    path.write_text(TOKEN.secret.hex())
    path.chmod(0o600)
    return path
