"""The node's launcher and an agent's line to it: handle files, forks, exits, kills, as the real one promises them.

Handles outlive launcher and agent, as files do. A launcher that died is followed by another one, which did not see what
ended in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from signal import SIGQUIT
from typing import TYPE_CHECKING

import msgspec

from serve_rt.agents.launcher.client import LauncherClient
from serve_rt.agents.launcher.records import Exit, Handle, LauncherStatus, SpawnSpec
from serve_rt.config.paths import StateDir
from serve_rt.errors import ConflictError, UnavailableError
from serve_rt.model.starts import ReplicaStart
from serve_rt.testing.sim_loop import current_process
from tests.simulation.replica import SimReplica

if TYPE_CHECKING:
    from tests.simulation.machine import SimMachine

CALL_S = 0.001
SWEEP_S = 0.01


class SimLauncher:
    """What survives of launchers: the handle files. `generation` counts launchers, `alive` is the present one's."""

    def __init__(self, machine: SimMachine) -> None:
        self.machine = machine
        self.handles: dict[tuple[str, int], Handle] = {}
        self.running: dict[tuple[str, int], SimReplica] = {}
        self.client: SimLauncherClient | None = None
        self.alive = True

    async def connect(self, state: StateDir) -> LauncherClient:
        """As `LauncherClient.connect`: a launcher is started if there is none."""
        await asyncio.sleep(CALL_S)
        self.alive = True
        process = current_process()
        assert process is not None
        if self.client is not None:
            self.client.closed.set()
        client = self.client = SimLauncherClient(self)
        process.on_end.append(lambda: self._left(client))
        for handle in self.handles.values():
            if handle.exited is not None:
                client.exits.put_nowait(handle.exited)
        return client

    def _left(self, client: SimLauncherClient) -> None:
        if self.client is client:
            self.client = None

    def die(self) -> None:
        """Killed: its children go on, their ends are not seen before the next launcher looks."""
        self.alive = False
        if self.client is not None:
            self.client.closed.set()
            self.client = None

    def powered_off(self) -> None:
        self.alive, self.client = False, None
        for key, handle in self.handles.items():
            if handle.exited is None:
                self.handles[key] = replace(handle, exited=Exit.unseen(handle.name, handle.kind, handle.incarnation))

    def ended(self, replica: SimReplica) -> None:
        key = replica.spec.key
        self.running.pop(key, None)
        handle = self.handles.get(key)
        if handle is None or handle.exited is not None:
            return
        seen = Exit(handle.name, handle.kind, handle.incarnation, replica.exit_code, replica.exit_signal)
        if not self.alive:
            seen = Exit.unseen(handle.name, handle.kind, handle.incarnation)
        self.handles[key] = replace(handle, exited=seen)
        if self.client is not None:
            self.client.exits.put_nowait(seen)


class SimLauncherClient(LauncherClient):
    """One agent's connection."""

    def __init__(self, launcher: SimLauncher) -> None:  # the real one's parts are a socket's
        self.exits = asyncio.Queue()
        self.closed = asyncio.Event()
        self._launcher = launcher

    async def _called(self) -> None:
        await asyncio.sleep(CALL_S)
        if self.closed.is_set() or not self._launcher.alive:
            self.closed.set()
            raise UnavailableError("the connection to the launcher was lost")

    async def spawn(self, spec: SpawnSpec) -> Handle:
        await self._called()
        launcher = self._launcher
        found = launcher.handles.get(spec.key)
        if found is not None and found.exited is not None:
            raise ConflictError(f"{spec.name}.{spec.incarnation} is over")
        if found is None:
            found = launcher.machine.fork(spec, msgspec.convert(spec.start, ReplicaStart))
        await self._called()
        return found

    async def handles(self) -> tuple[Handle, ...]:
        await self._called()
        return tuple(self._launcher.handles.values())

    async def signal(self, name: str, incarnation: int, signum: int) -> bool:
        await self._called()
        replica = self._launcher.running.get((name, incarnation))
        if replica is not None and signum != SIGQUIT:  # that one only asks for stacks
            self._launcher.machine.world.invariants.stopped_by_agent(replica, f"signal {signum}")
            replica.drain_begins()
        return replica is not None

    async def kill_group(self, name: str, incarnation: int) -> None:
        await self._called()
        replica = self._launcher.running.get((name, incarnation))
        if replica is not None:
            self._launcher.machine.world.invariants.stopped_by_agent(replica, "kill")
            replica.exit(number=9)
        await asyncio.sleep(SWEEP_S)
        self._launcher.machine.sweep((name, incarnation))
        await self._called()

    async def forget(self, name: str, incarnation: int) -> None:
        await self._called()
        handle = self._launcher.handles.get((name, incarnation))
        if handle is not None and handle.exited is None:
            raise ConflictError(f"{name}.{incarnation} runs")
        self._launcher.handles.pop((name, incarnation), None)

    async def preload(self, modules: Iterable[str]) -> None:
        await self._called()

    async def status(self) -> LauncherStatus:
        await self._called()
        return LauncherStatus(pid=1, state="warm")

    async def shutdown(self) -> None:
        await self._called()

    async def close(self) -> None:
        self.closed.set()
