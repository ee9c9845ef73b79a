"""What can go wrong between processes: with etcd, with the way to it, with the wires between machines.

As in `faults.py`: begin, and return what ends it.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from serve_rt.testing.fake_etcd import FakeEtcd
from tests.simulation import faults
from tests.simulation.faults import Fault, Heal

if TYPE_CHECKING:
    from tests.simulation.world import SimWorld


# --- the store ----------------------------------------------------------------------------------------------------


def etcd_away(world: SimWorld, draw: Random) -> Heal | None:
    if world.etcd_stopped:
        return None
    world.etcd_stopped = True
    world.etcd.stop()

    def heal() -> None:
        world.etcd_stopped = False
        world.etcd.start()

    return heal


def etcd_blinks(world: SimWorld, draw: Random) -> Heal | None:
    """A restart: every watch breaks and resumes."""
    if world.etcd_stopped:
        return None
    world.etcd.stop()
    world.etcd.start()
    return _nothing


def answers_of_etcd_lost(world: SimWorld, draw: Random) -> Heal | None:
    """Writes that are done and whose writers do not hear of it."""
    _client(world, draw).drop_replies(draw.randint(1, 3))
    return _nothing


def watch_lags(world: SimWorld, draw: Random) -> Heal | None:
    store = _client(world, draw)
    store.watch_lag_s = draw.choice((0.5, 2.0, 8.0))

    def heal() -> None:
        store.watch_lag_s = 0.0

    return heal


def watch_compacted(world: SimWorld, draw: Random) -> Heal | None:
    """Some watches are broken, and when they are back what happened in between is compacted away."""
    stores = _clients(world)
    broken = draw.sample(stores, draw.randint(1, len(stores))) if stores else []
    for store in broken:
        store.unavailable = True

    def heal() -> None:
        machine = world.etcd.machine
        if machine.compacted < machine.revision:
            machine.compact(machine.revision)
        for store in broken:
            store.unavailable = False

    return heal


def lease_expires(world: SimWorld, draw: Random) -> Heal | None:
    """etcd itself ends a registration: a clock that jumped, an operator's hand."""
    nodes = list(world.etcd.machine.snapshot(world.keys.nodes).items.values())
    if not nodes:
        return None
    world.etcd.expire_lease(draw.choice(nodes).lease)
    return _nothing


def leader_lease_expires(world: SimWorld, draw: Random) -> Heal | None:
    """Its leader lives, and hears of it a moment later than its successor."""
    holder = world.etcd.machine.get(world.keys.leader)
    if holder is None:
        return None
    world.etcd.expire_lease(holder.lease)
    return _nothing


def writes_of_leader_late(world: SimWorld, draw: Random) -> Heal | None:
    """Longer under way than their writer waits: they arrive when it, or another leader, has decided anew."""
    leader = world.leading()
    if leader is None or leader.controller is None or leader.controller.name not in leader.stores:
        return None
    store = leader.stores[leader.controller.name]
    store.delay_writes(draw.randint(1, 3), draw.uniform(5.0, 25.0))
    return lambda: store.delay_writes(0, 0.0)


def machine_cut_from_etcd(world: SimWorld, draw: Random) -> Heal | None:
    name = draw.choice(sorted(world.machines))
    world.cut_machine_from_etcd(name)
    return lambda: world.heal_machine_to_etcd(name)


# --- the network --------------------------------------------------------------------------------------------------


def machine_cut_from_leader(world: SimWorld, draw: Random) -> Heal | None:
    leader = world.leading()
    others = [name for name in sorted(world.machines) if leader is not None and name != leader.name]
    if leader is None:
        return None
    return cut(world, (leader.name, draw.choice(others)), both=True)


def wire_cut_one_way(world: SimWorld, draw: Random) -> Heal | None:
    first, second = draw.sample(sorted(world.machines), 2)
    return cut(world, (first, second), both=False)


def machine_isolated(world: SimWorld, draw: Random) -> Heal | None:
    """From etcd and from everybody; what runs there runs on."""
    name = draw.choice(sorted(world.machines))
    heals = [cut(world, (name, other), both=True) for other in world.machines if other != name]
    world.cut_machine_from_etcd(name)

    def heal() -> None:
        world.heal_machine_to_etcd(name)
        for each in heals:
            each()

    return heal


def most_machines_cut_off(world: SimWorld, draw: Random) -> Heal | None:
    """From etcd, all but one, at once: that is not two machines dying."""
    names = sorted(world.machines)
    names.remove(draw.choice(names))
    for name in names:
        world.cut_machine_from_etcd(name)

    def heal() -> None:
        for name in names:
            world.heal_machine_to_etcd(name)

    return heal


def wires_slow(world: SimWorld, draw: Random) -> Heal | None:
    world.network.wires.delays_s = (0.05, draw.choice((0.3, 2.0)))

    def heal() -> None:
        world.network.wires.delays_s = (0.0003, 0.003)

    return heal


def streams_reset(world: SimWorld, draw: Random) -> Heal | None:
    """What is under way on them is lost."""
    world.network.break_streams(lambda caller, server: draw.random() < 0.7, "reset by a fault")
    return _nothing


def messages_twice(world: SimWorld, draw: Random) -> Heal | None:
    world.network.duplicate_pushes += draw.randint(1, 5)
    return _nothing


def messages_overtaken(world: SimWorld, draw: Random) -> Heal | None:
    """Streams stall; their callers give up and speak on new ones; then the old words arrive after all."""
    stalled = world.network.stall(lambda caller, server: caller.node != server.node)
    if not stalled:
        return None

    def heal() -> None:
        world.network.give_up_stalled(stalled, late_s=draw.uniform(0.5, 3.0))

    return heal


def cut(world: SimWorld, ends: tuple[str, str], *, both: bool) -> Heal:
    wires = world.network.wires
    ways = (ends, ends[::-1]) if both else (ends,)
    for source, target in ways:
        wires.cut(source, target)
    pair = frozenset(ends)
    world.network.keepalive_fails(
        lambda caller, server: {caller.node, server.node} == pair and not wires.open(*ends), "keepalive timed out"
    )

    def heal() -> None:
        for source, target in ways:
            wires.heal(source, target)

    return heal


def _clients(world: SimWorld) -> list[FakeEtcd]:
    return [
        machine.stores[process.name]
        for machine in world.machines.values()
        for process in (machine.agent, machine.controller)
        if process is not None and process.alive and process.name in machine.stores
    ]


def _client(world: SimWorld, draw: Random) -> FakeEtcd:
    alive = _clients(world)
    return draw.choice(alive) if alive else world.etcd.peer("nobody")


def _nothing() -> None:
    """Nothing needs to be healed."""


FAULTS: dict[str, Fault] = {
    "leader crash": faults.leader_crash,
    "leader pause": faults.leader_pause,
    "leader stops politely": faults.leader_stops_politely,
    "agent crash": faults.agent_crash,
    "agent pause": faults.agent_pause,
    "agent and replica die together": faults.agent_and_replica_die_together,
    "launcher crash": faults.launcher_crash,
    "replica crash": faults.replica_crash,
    "replica hangs": faults.replica_hangs,
    "replica fails its check": faults.replica_fails_its_check,
    "starts fail": faults.starts_fail,
    "starts hang": faults.starts_hang,
    "child outlives its replica": faults.child_outlives_its_replica,
    "device memory stays": faults.device_memory_stays,
    "machine off": faults.machine_off,
    "etcd away": etcd_away,
    "etcd blinks": etcd_blinks,
    "answers of etcd lost": answers_of_etcd_lost,
    "watch lags": watch_lags,
    "watch compacted": watch_compacted,
    "lease expires": lease_expires,
    "leader lease expires": leader_lease_expires,
    "writes of leader late": writes_of_leader_late,
    "machine cut from etcd": machine_cut_from_etcd,
    "machine cut from leader": machine_cut_from_leader,
    "wire cut one way": wire_cut_one_way,
    "machine isolated": machine_isolated,
    "most machines cut off": most_machines_cut_off,
    "wires slow": wires_slow,
    "streams reset": streams_reset,
    "messages twice": messages_twice,
    "messages overtaken": messages_overtaken,
}
