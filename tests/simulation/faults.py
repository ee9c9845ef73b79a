"""Everything that can go wrong, one function a kind: it begins a fault and returns what ends it.

A fault is drawn with its victims and its time by `story.py`; `heal` of whatever is still open ends the story. All of
them go through methods of the world, the machines, the wires and the store's clients.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from serve_rt.testing.sim_loop import SimProcess
from tests.simulation.machine import SimMachine
from tests.simulation.replica import SimReplica

if TYPE_CHECKING:
    from tests.simulation.world import SimWorld

Heal = Callable[[], None]
Fault = Callable[["SimWorld", Random], Heal | None]
"""None: it could not happen now (no such victim)."""


def leader_crash(world: SimWorld, draw: Random) -> Heal | None:
    machine = world.leading()
    if machine is None or machine.controller is None:
        return None
    machine.controller.kill()
    return machine.start_controller


def agent_crash(world: SimWorld, draw: Random) -> Heal | None:
    machine = _powered(world, draw)
    if machine is None or machine.agent is None:
        return None
    machine.agent.kill()
    return machine.start_agent


def replica_crash(world: SimWorld, draw: Random) -> Heal | None:
    replica = _replica(world, draw)
    if replica is None:
        return None
    replica.hurt = True
    replica.exit(number=9)
    return _nothing


# --- victims ------------------------------------------------------------------------------------------------------


def _powered(world: SimWorld, draw: Random) -> SimMachine | None:
    on = [machine for machine in world.machines.values() if machine.powered]
    return draw.choice(on) if on else None


def _replica(world: SimWorld, draw: Random) -> SimReplica | None:
    running = [replica for machine in world.machines.values() for replica in machine.replicas]
    return draw.choice(running) if running else None


def _process(machine: SimMachine | None, which: str) -> SimProcess | None:
    return getattr(machine, which) if machine is not None else None


def _nothing() -> None:
    """Nothing needs to be healed."""


FAULTS: dict[str, Fault] = {
    "leader crash": leader_crash,
    "agent crash": agent_crash,
    "replica crash": replica_crash,
}
