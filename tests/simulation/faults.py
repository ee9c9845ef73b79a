"""What can go wrong with processes and machines, one function a kind: it begins a fault and returns what ends it.

A fault is drawn with its victims and its length by `story.py`; what is still open when the story's time is up is healed
then. None in place of a heal: it could not happen now. `wire_faults.py` has those of the store and the network, and
`FAULTS`, the list of all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

from serve_rt.testing.sim_loop import SimProcess
from tests.simulation.machine import SimMachine
from tests.simulation.replica import SimReplica

if TYPE_CHECKING:
    from tests.simulation.world import SimWorld

Heal = Callable[[], None]
Fault = Callable[["SimWorld", Random], Heal | None]

FORGIVEN_S = 6.0
"""So long after a pause a replica may still be killed for it: the verdict was on its way."""


# --- leaders ------------------------------------------------------------------------------------------------------


def leader_crash(world: SimWorld, draw: Random) -> Heal | None:
    machine = world.leading()
    if machine is None or machine.controller is None:
        return None
    machine.controller.kill()
    return machine.start_controller


def leader_pause(world: SimWorld, draw: Random) -> Heal | None:
    """Past its lease or not: it does not know how long it was away."""
    machine = world.leading()
    return _pause(world, machine.controller if machine is not None else None)


def leader_stops_politely(world: SimWorld, draw: Random) -> Heal | None:
    machine = world.leading()
    if machine is None:
        return None
    machine.stop_controller()
    return machine.start_controller


# --- agents and launchers -----------------------------------------------------------------------------------------


def agent_crash(world: SimWorld, draw: Random) -> Heal | None:
    machine = _powered(world, draw)
    if machine is None or machine.agent is None:
        return None
    machine.agent.kill()
    return machine.start_agent


def agent_pause(world: SimWorld, draw: Random) -> Heal | None:
    machine = _powered(world, draw)
    return _pause(world, machine.agent if machine is not None else None)


def agent_and_replica_die_together(world: SimWorld, draw: Random) -> Heal | None:
    """What ended while nobody looked is found by the next agent."""
    replica = _replica(world, draw)
    if replica is None or replica.machine.agent is None:
        return None
    replica.machine.agent.kill()
    _crash(replica)
    return replica.machine.start_agent


def launcher_crash(world: SimWorld, draw: Random) -> Heal | None:
    machine = _powered(world, draw)
    if machine is None or not machine.launcher.alive:
        return None
    machine.launcher.die()
    return _nothing


# --- replicas -----------------------------------------------------------------------------------------------------


def replica_crash(world: SimWorld, draw: Random) -> Heal | None:
    replica = _replica(world, draw)
    if replica is None:
        return None
    _crash(replica)
    return _nothing


def replica_hangs(world: SimWorld, draw: Random) -> Heal | None:
    replica = _replica(world, draw)
    if replica is None or replica.process.paused:
        return None
    replica.hurt = True
    replica.process.pause()

    def thaw() -> None:
        replica.process.resume()
        world.later(FORGIVEN_S, lambda: setattr(replica, "hurt", False))

    return thaw


def replica_fails_its_check(world: SimWorld, draw: Random) -> Heal | None:
    replica = _replica(world, draw)
    if replica is None:
        return None
    replica.behaviour = replace(replica.behaviour, unhealthy=True)
    replica.hurt = True
    return _nothing


def starts_fail(world: SimWorld, draw: Random) -> Heal | None:
    """The next few constructors raise, whatever their version: the weights could not be loaded."""
    world.starts_to_fail += draw.randint(1, 3)

    def heal() -> None:
        world.starts_to_fail = 0

    return heal


def starts_hang(world: SimWorld, draw: Random) -> Heal | None:
    world.starts_to_hang += 1

    def heal() -> None:
        world.starts_to_hang = 0

    return heal


def child_outlives_its_replica(world: SimWorld, draw: Random) -> Heal | None:
    replica = _replica(world, draw)
    if replica is None:
        return None
    replica.behaviour = replace(replica.behaviour, leaves_child=True)
    _crash(replica)
    return _nothing


def device_memory_stays(world: SimWorld, draw: Random) -> Heal | None:
    """The driver does not give back what a dead process held, for longer than the agent waits."""
    using = [r for machine in world.machines.values() for r in machine.replicas if r.assignment.devices]
    if not using:
        return None
    replica = draw.choice(using)
    machine = replica.machine
    machine.memory_back_s = 40.0
    _crash(replica)

    def heal() -> None:
        machine.memory_back_s = None

    return heal


# --- machines -----------------------------------------------------------------------------------------------------


def machine_off(world: SimWorld, draw: Random) -> Heal | None:
    machine = _powered(world, draw)
    if machine is None or sum(each.powered for each in world.machines.values()) == 1:
        return None
    machine.power_off()
    return machine.power_on


# --- victims ------------------------------------------------------------------------------------------------------


def _powered(world: SimWorld, draw: Random) -> SimMachine | None:
    on = [machine for machine in world.machines.values() if machine.powered]
    return draw.choice(on) if on else None


def _replica(world: SimWorld, draw: Random) -> SimReplica | None:
    running = [replica for machine in world.machines.values() for replica in machine.replicas]
    return draw.choice(running) if running else None


def _crash(replica: SimReplica) -> None:
    replica.hurt = True
    replica.exit(number=9)


def _pause(world: SimWorld, process: SimProcess | None) -> Heal | None:
    if process is None or not process.alive or process.paused:
        return None
    process.pause()
    world.network.keepalive_fails(lambda caller, server: process.paused and server is process, "it does not answer")
    return process.resume


def _nothing() -> None:
    """Nothing needs to be healed."""
