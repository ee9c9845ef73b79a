"""What the simulation found, each told again in the fewest steps; all of it ended in two processes on one GPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from serve_rt.agents.launcher.records import Exit
from tests.simulation.machine import SimMachine
from tests.simulation.replica import SimReplica
from tests.simulation.rest import not_settled
from tests.simulation.users import deployment
from tests.simulation.wire_faults import cut
from tests.simulation.world import SimWorld


@pytest.fixture
def world() -> Iterator[SimWorld]:
    with SimWorld(1) as made:
        made.begin()
        made.run_for(3.0)
        made.users.deploy("g", deployment("v1-good", 1, 1000))
        made.run_for(3.0)
        yield made


def the_replica(world: SimWorld) -> SimReplica:
    (replica,) = [replica for machine in world.machines.values() for replica in machine.replicas]
    return replica


def crash(replica: SimReplica, memory_back_s: float) -> SimMachine:
    replica.hurt = True
    replica.machine.memory_back_s = memory_back_s
    replica.exit(number=9)
    return replica.machine


def test_an_end_found_in_its_handle_and_told_by_the_launcher_again_counts_once(world: SimWorld) -> None:
    """The second telling swept without a pid, and did not wait for the memory."""
    replica = the_replica(world)
    assert replica.machine.agent is not None
    replica.machine.agent.kill()
    crash(replica, memory_back_s=4.0).start_agent()
    world.run_for(10.0)
    assert not world.invariants.broken
    assert the_replica(world).incarnation == 2
    assert not_settled(world) == []


def test_an_agent_that_dies_before_the_memory_is_back_leaves_the_handle_to_the_next(world: SimWorld) -> None:
    machine = crash(the_replica(world), memory_back_s=4.0)
    world.run_for(0.5)
    assert machine.agent is not None
    machine.agent.kill()
    machine.start_agent()
    world.run_for(10.0)
    assert not world.invariants.broken
    assert the_replica(world).incarnation == 2


@pytest.mark.parametrize("redeployed_after_s", [0.5, 29.0])
def test_a_quarantine_is_known_before_the_device_looks_free(world: SimWorld, redeployed_after_s: float) -> None:
    """The leader gave the device away between the record of the replica's end and that of the quarantine."""
    crash(the_replica(world), memory_back_s=45.0)
    world.run_for(redeployed_after_s)
    world.users.deploy("g", deployment("v2-good", 3, 1000))  # every device is asked for
    world.run_for(90.0)
    assert not world.invariants.broken
    assert not_settled(world) == []


def test_a_quarantine_outlives_the_agent(world: SimWorld) -> None:
    """The next agent knew of none, and the leader gave the device away while it was held (seed 211)."""
    machine = crash(the_replica(world), memory_back_s=60.0)
    world.run_for(35.0)
    assert machine.agent is not None
    machine.agent.kill()
    machine.start_agent()
    world.users.deploy("g", deployment("v2-good", 3, 1000))  # every device is asked for
    world.run_for(90.0)
    assert not world.invariants.broken
    assert not_settled(world) == []


def test_a_quarantine_found_without_etcd_is_known_before_the_device_looks_free(world: SimWorld) -> None:
    """With the registration lost nothing was written, and the report of the replica's end was all the leader heard."""
    crash(the_replica(world), memory_back_s=50.0)
    world.run_for(10.0)
    world.etcd.stop()
    world.run_for(25.0)
    world.etcd.start()
    world.users.deploy("g", deployment("v2-good", 3, 1000))  # every device is asked for
    world.run_for(90.0)
    assert not world.invariants.broken
    assert not_settled(world) == []


def test_a_node_that_comes_back_starts_nothing_where_a_forgotten_replica_runs() -> None:
    """Its application was deleted while the node was cut off: no record named the device any more."""
    with SimWorld(23) as world:
        world.begin()
        world.run_for(3.0)
        world.users.deploy("g", deployment("v1-slow", 1, 1000))
        world.run_for(8.0)
        name = the_replica(world).machine.name
        heals = [cut(world, (name, other), both=True) for other in world.machines if other != name]
        world.cut_machine_from_etcd(name)
        world.run_for(25.0)
        world.users.delete("g")
        world.run_for(10.0)
        world.users.deploy("h", deployment("v1-good", 3, 1000))  # every device is asked for
        world.run_for(20.0)
        world.heal_machine_to_etcd(name)
        for heal in heals:
            heal()
        world.run_for(90.0)
        assert not world.invariants.broken
        assert not_settled(world) == []


def test_a_handle_that_outlived_its_note_starts_nothing(world: SimWorld) -> None:
    """No launcher was there to forget it when its replica was withdrawn: the next agent started that for ever."""
    replica = the_replica(world)
    machine, key = replica.machine, replica.spec.key
    handle = machine.launcher.handles[key]
    world.users.delete("g")
    world.run_for(10.0)
    assert machine.agent is not None
    machine.agent.kill()
    machine.launcher.handles[key] = dataclasses.replace(handle, exited=Exit.unseen(handle.name, handle.kind, 1))
    machine.start_agent()
    world.run_for(10.0)
    assert not world.invariants.broken
    assert not_settled(world) == []
    assert not machine.launcher.handles


@pytest.mark.parametrize("seed", [2, 3, 8, 10])
def test_an_agent_that_was_stopped_listens_before_it_judges(seed: int) -> None:
    """It killed a replica for starting too long that had got ready while the agent itself stood still."""
    with SimWorld(seed) as world:
        world.begin()
        world.run_for(3.0)
        world.users.deploy("x", deployment("v1-slow", 1))
        world.run_for(2.0)
        agent = the_replica(world).machine.agent
        assert agent is not None
        agent.pause()
        world.run_for(35.0)
        agent.resume()
        world.run_for(60.0)
        assert not world.invariants.broken
        assert not_settled(world) == []
