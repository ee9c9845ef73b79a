"""A simulated node's agent: all of the real brain (`Parts` and what it joins), without sockets, disks and proxies.

What stands in: the store's client, the launcher's line, memory and routes in dicts that outlive the process, blobs that
are always there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from serve_rt.agents.api_server import AgentService
from serve_rt.agents.blobs import BlobStore
from serve_rt.agents.children import Children
from serve_rt.agents.devices import Devices
from serve_rt.agents.feed import Feed
from serve_rt.agents.launcher.records import ProcessKind, SpawnSpec
from serve_rt.agents.launcher_link import LauncherLink
from serve_rt.agents.leader_calls import LeaderCalls
from serve_rt.agents.memory import AgentMemory, Copy, HighWater, Quarantines
from serve_rt.agents.node import ThisNode
from serve_rt.agents.observations import Observations
from serve_rt.agents.parts import Parts
from serve_rt.agents.registration import Registration
from serve_rt.agents.settings import Settings
from serve_rt.agents.starting import ENTRY, Starter, replica_env
from serve_rt.agents.supervisor import Supervisor
from serve_rt.aio import TaskOwner
from serve_rt.config.paths import StateDir
from serve_rt.credentials import control_server
from serve_rt.errors import ConflictError, EtcdError
from serve_rt.etcd import EtcdStore, Keys
from serve_rt.model.ids import BlobDigest, ReplicaId
from serve_rt.pb import control_pb2 as pb
from serve_rt.store.mirror import Mirror
from serve_rt.wire.services import service_handler

if TYPE_CHECKING:
    from tests.simulation.machine import SimMachine

PORT = 7300


@dataclass
class Disk:
    """What is fsynced: it outlives agent and power cut."""

    copies: dict[ReplicaId, Copy] = field(default_factory=dict)
    high_water: HighWater = field(default_factory=HighWater)
    quarantines: Quarantines = field(default_factory=Quarantines)


class SimMemory(AgentMemory):
    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def load(self) -> dict[ReplicaId, Copy]:
        return dict(sorted(self._disk.copies.items()))

    def save(self, copy: Copy) -> None:
        self._disk.copies[copy.assignment.replica_id] = copy

    def drop(self, replica: ReplicaId) -> None:
        self._disk.copies.pop(replica, None)

    def load_high_water(self) -> HighWater:
        return self._disk.high_water

    def save_high_water(self, value: HighWater) -> None:
        self._disk.high_water = value

    def load_quarantines(self) -> Quarantines:
        return self._disk.quarantines

    def save_quarantines(self, value: Quarantines) -> None:
        self._disk.quarantines = value

    def clear(self) -> None:
        self._disk.copies.clear()


class SimBlobs(BlobStore):
    def __init__(self) -> None:
        """Every blob is everywhere."""

    def digests(self) -> tuple[BlobDigest, ...]:
        return ()


class SimStarter(Starter):
    def with_port(self, copy: Copy) -> Copy:
        taken: Collection[int] = self._ports_taken()
        port = copy.port or next(port for port in range(20000, 30000) if port not in taken)
        return replace(copy, port=port)

    async def prepare(self, copy: Copy, incarnation: int) -> SpawnSpec:
        await self.devices.note(copy.assignment.devices)
        start = self._start(copy, incarnation, Path("payload"), None)
        return SpawnSpec(
            kind=ProcessKind.REPLICA,
            name=copy.assignment.replica_id,
            incarnation=incarnation,
            entry=ENTRY,
            start=msgspec.to_builtins(start),
            env=replica_env(copy.assignment),
        )


class SimParts(Parts):
    """As `Parts`, with the stand-ins; the wires between the parts are the real ones."""

    def __init__(
        self, machine: SimMachine, node: ThisNode, launcher: LauncherLink, store: EtcdStore, tasks: TaskOwner
    ) -> None:
        clock, keys = machine.world.clock, Keys(node.cluster)
        self.node, self._launcher, self._tasks, self._clock = node, launcher, tasks, clock
        self._children = Children(launcher, clock)
        self._started_at_s = clock.wall()
        self.mirror = Mirror(store, keys, clock=clock)
        self.memory = SimMemory(machine.disk)
        self.registration = Registration(store, keys, node, self._node_record, clock=clock)
        self.observations = Observations(self.registration)
        self.feed = Feed(node.state, node.cluster, node.node_id)
        self.blobs = SimBlobs()
        self.devices = Devices(
            self.registration.update, read=machine.device_use, memory=self.memory, boot_id=node.boot_id
        )
        starter = SimStarter(node, self.blobs, lambda: self.supervisor.ports(), self.devices)
        self.supervisor = Supervisor(node, launcher, starter, self.memory, clock, self._replica_changed, self._learned)
        self._join()

    def service(self) -> AgentService:
        leader = LeaderCalls(self.mirror, self.node.token)
        parts = (self.feed, self.blobs, self.supervisor, self.observations, self._launcher)
        return AgentService(
            self.node, self.mirror, leader, *parts, lambda _force, _drain_s: "", self._restart_proxies, self._clock
        )


async def run_agent(machine: SimMachine, session: str) -> None:
    """What `Agent` does, less what a simulated machine does not have. Runs until its process is killed."""
    world = machine.world
    launcher = LauncherLink(machine.state, connect=machine.launcher.connect)
    found = await launcher.start()
    tasks = TaskOwner(f"agent {machine.name}", on_failure=machine.agent_failed)
    parts = SimParts(machine, machine.this_node(session), launcher, machine.store(f"agent {session}"), tasks)
    machine.parts = parts
    server = control_server(parts.node.token)
    service = parts.service()
    server.add_generic_rpc_handlers((service_handler(pb.DESCRIPTOR.services_by_name["Agent"], service),))
    server.add_insecure_port(f"{machine.name}:{PORT}")
    await server.start()
    await parts.adopt(found)
    parts.start_tasks()
    world.invariants.watch_agent(machine, parts)
    with suppress(EtcdError, ConflictError, TimeoutError):
        async with asyncio.timeout(2.0):
            await parts.registration.register()
    await parts.registration.keep()


def sim_settings(name: str) -> Settings:
    state = StateDir(Path("/simulated") / name)
    return Settings(state, cluster="sim", host=name, port=PORT, node_id=name, insecure=True)
