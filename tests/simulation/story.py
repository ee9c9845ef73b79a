"""One seed's story: ten minutes of users and faults, then all heals, then the cluster must come to rest.

    python -m tests.simulation.story SEED     # replay one seed with its history

Called by the tests. The verdict is a list of sentences; empty means that nothing was broken.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from random import Random

from serve_rt.controller.reconcile import reconcile
from serve_rt.model.cluster import Cluster, RolloutPhase
from serve_rt.model.ids import AppName, DeploymentKey
from serve_rt.model.replica import Goal
from tests.simulation.faults import Heal
from tests.simulation.users import NAME, deployment
from tests.simulation.wire_faults import FAULTS
from tests.simulation.world import SimWorld

LENGTH_S = 600.0
SETTLES_S = 60.0
FIRST_FAULT_S = 8.0
MIN_FAULTS = 20
APPS = ("x", "y", "g")
"""The last one runs on GPUs."""
VERSIONS = ("good",) * 6 + ("slow", "slow", "raises", "stuck", "crashes", "clings", "forks")


@dataclass(frozen=True, slots=True)
class Told:
    seed: int
    broken: tuple[str, ...]
    hash: str
    faults: int
    settled_s: float
    happened: dict[str, int]
    history: tuple[str, ...]
    steps: int

    def __str__(self) -> str:
        how = f"PYTHONHASHSEED={os.environ.get('PYTHONHASHSEED', 'random')}"
        words = "\n".join(("…", *self.history[-60:], *self.broken))
        return f"{words}\nseed {self.seed} ({how}); again: python -m tests.simulation.story {self.seed}"


def tell(seed: int, length_s: float = LENGTH_S, faults: tuple[str, ...] = tuple(FAULTS)) -> Told:
    draw = Random(seed)
    with SimWorld(seed) as world:
        world.begin()
        count = _trouble(world, draw, length_s, faults)
        settled_s = _come_to_rest(world) if not world.invariants.broken else 0.0
        return Told(
            seed=seed,
            broken=tuple(world.invariants.broken),
            hash=world.hash,
            faults=count,
            settled_s=settled_s,
            happened=dict(world.happened),
            history=tuple(world.history),
            steps=world.loop.steps,
        )


def _trouble(world: SimWorld, draw: Random, length_s: float, kinds: tuple[str, ...]) -> int:
    """Users and faults side by side; how many faults bit."""
    end = world.now + length_s
    open_faults: list[tuple[float, str, Heal]] = []
    count, app = 0, APPS[0]
    next_fault, next_wish = world.now + FIRST_FAULT_S, world.now + 2.0
    while world.now < end and not world.invariants.broken:
        due = min([next_fault, next_wish, end, *(until for until, _, _ in open_faults)])
        world.run_for(max(0.0, due - world.now))
        for each in [each for each in open_faults if each[0] <= world.now]:
            open_faults.remove(each)
            world.note("healed", each[1])
            each[2]()
        if world.now >= next_wish:
            hasty = draw.random() < 0.3  # changes his mind before the cluster is done
            app = app if hasty else draw.choice(APPS)
            _wish(world, draw, app)
            next_wish = world.now + (draw.uniform(0.2, 4.0) if hasty else draw.uniform(5.0, 40.0))
        if world.now >= next_fault:
            kind = draw.choice(kinds)
            heal = FAULTS[kind](world, draw)
            if heal is not None:
                count += 1
                world.note(f"fault {kind}")
                open_faults.append((world.now + draw.choice((0.05, 1.0, 3.0, 12.0, 30.0)), kind, heal))
            next_fault = world.now + draw.uniform(1.0, 30.0)
    for _, kind, heal in open_faults:
        world.note("healed", kind)
        heal()
    return count


def _wish(world: SimWorld, draw: Random, app: str) -> None:
    version = f"v{draw.randrange(100)}-{draw.choice(VERSIONS)}"
    replicas = draw.randint(1, 3)
    match draw.choice(("deploy", "deploy", "scale", "scale", "delete")):
        case "deploy":
            world.users.deploy(app, deployment(version, replicas, 1000 if app == "g" else 0))
        case "scale":
            world.users.scale(app, replicas)
        case "delete":
            world.users.delete(app)


# --- rest ---------------------------------------------------------------------------------------------------------


def _come_to_rest(world: SimWorld) -> float:
    """Until what is wanted is what there is, and nothing is planned; how long that took."""
    began = world.now
    while True:
        reasons = not_settled(world)
        if not reasons:
            return world.now - began
        if world.now - began > SETTLES_S or world.invariants.broken:
            for reason in reasons:
                world.invariants.failed(f"not settled after {world.now - began:.0f} s: {reason}")
            return world.now - began
        world.run_for(1.0)


def not_settled(world: SimWorld) -> list[str]:
    reasons: list[str] = []
    cluster = world.cluster()
    if cluster.leader is None:
        return ["there is no leader"]
    if world.users.busy:
        reasons.append("a change is not answered")
    if plan := reconcile(cluster, world.now, world.settings):
        reasons.append(f"the plan is not empty: {plan.actions}")
    for app, wish in world.users.wishes.items():
        reasons += _differs(world, cluster, app) if not wish.gone else []
        if wish.gone and AppName(app) in cluster.apps:
            reasons.append(f"{app} is deleted and still there")
    reasons += _strangers(world, cluster)
    return reasons


def _differs(world: SimWorld, cluster: Cluster, app: str) -> list[str]:
    wish = world.users.wishes[app]
    memory = cluster.deployments.get(DeploymentKey(AppName(app), NAME))
    if memory is None:
        return [f"{app} was deployed and nobody remembers"]
    if memory.target.version.endswith("crashes"):
        return []  # it never comes to rest, by its own doing
    if memory.pending:
        return []  # more is asked for than there is
    if memory.phase not in (RolloutPhase.STEADY, RolloutPhase.ROLLED_BACK, RolloutPhase.FAILED):
        return [f"{app} is {memory.phase.name}"]
    if memory.phase is RolloutPhase.STEADY and memory.target.version != wish.version:
        return [f"{app} is at {memory.target.version}, asked for was {wish.version}"]
    running = [r for m in world.machines.values() for r in m.replicas if r.assignment.app == app]
    good = [r for r in running if r.ready and r.assignment.spec.version == memory.target.version]
    wanted = memory.target.options.num_replicas
    if memory.phase is not RolloutPhase.FAILED and (len(good), len(running)) != (wanted, wanted):
        return [f"{app} wants {wanted} replicas of {memory.target.version}, has {running}"]
    route = cluster.routes.get(memory.key)
    routed = {(r.replica_id, r.incarnation) for r in route.replicas} if route is not None else set()
    if memory.phase is not RolloutPhase.FAILED and routed != {(r.replica_id, r.incarnation) for r in good}:
        return [f"{app} is routed to {sorted(routed)}, ready are {good}"]
    return []


def _strangers(world: SimWorld, cluster: Cluster) -> list[str]:
    """I7: every process has an assignment, and every record a process."""
    running = {r.replica_id for m in world.machines.values() for r in m.replicas}
    wanted = {r for r, assignment in cluster.assignments.items() if assignment.goal is Goal.RUN}
    reasons = [f"{replica} runs and nobody wants it" for replica in sorted(running - wanted)]
    reasons += [f"{replica} is on its way out" for replica in sorted(cluster.assignments.keys() - wanted)]
    reasons += [f"{replica} is observed and not assigned" for replica in sorted(cluster.observed.keys() - wanted)]
    for machine in world.machines.values():
        handles = {handle.name for handle in machine.launcher.handles.values()}
        reasons += [f"{name} has a handle and no assignment" for name in sorted(handles - {str(r) for r in wanted})]
    return reasons


if __name__ == "__main__":
    told = tell(int(sys.argv[1]))
    print("\n".join((*told.history, *told.broken)))
    print(f"{told.faults} faults, settled after {told.settled_s:.1f} s, {told.steps} steps, hash {told.hash[:16]}")
