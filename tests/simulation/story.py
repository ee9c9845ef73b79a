"""One seed's story: ten minutes of users and faults, then all heals, then the cluster must come to rest.

    python -m tests.simulation.story SEED     # replay one seed with its history

Called by the tests. The verdict is a list of sentences; empty means that nothing was broken.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from random import Random

from serve_rt.model.ids import DeploymentName
from serve_rt.model.node import NodeMark
from serve_rt.model.spec import DeploymentSpec
from tests.simulation.faults import Heal
from tests.simulation.rest import answering, not_settled
from tests.simulation.users import autoscaled, deployment
from tests.simulation.wire_faults import FAULTS
from tests.simulation.world import SimWorld

LENGTH_S = 600.0
SETTLES_S = 60.0
FIRST_FAULT_S = 8.0
MIN_FAULTS = 20
ANSWERS_S = 20.0
APPS = ("x", "y", "g", "h", "s")
"""`g` runs on GPUs, `h` has two deployments, `s` scales by its demand."""
WISHES = ("deploy",) * 4 + ("scale",) * 3 + ("delete", "redeploy", "rollback", "mark", "wave", "wave")
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
        words = "\n".join(("…", *self.history[-60:], *self.broken))
        return f"{words}\nseed {self.seed}; again: python -m tests.simulation.story {self.seed}"


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
    for node, mark in world.users.marks.items():
        if mark is not NodeMark.SCHEDULABLE:
            world.users.mark(node, NodeMark.SCHEDULABLE)
    return count


def _wish(world: SimWorld, draw: Random, app: str) -> None:
    version = f"v{draw.randrange(100)}-{draw.choice(VERSIONS)}"
    replicas = draw.randint(1, 3)
    users = world.users
    match draw.choice(WISHES):
        case "deploy":
            users.deploy(app, *_specs(draw, app, version, replicas))
        case "scale":
            users.scale(app, replicas)
        case "delete":
            users.delete(app)
        case "redeploy":
            users.delete(app)
            users.deploy(app, *_specs(draw, app, version, replicas))
        case "rollback":
            users.rollback(app)
        case "mark":
            users.mark(draw.choice(sorted(world.machines)), draw.choice(tuple(NodeMark)[:3]))
        case "wave":
            caller = draw.choice(world.callers)
            caller.wave = (app, world.now + draw.uniform(5.0, 30.0))


def _specs(draw: Random, app: str, version: str, replicas: int) -> tuple[DeploymentSpec, ...]:
    """`h` is made of two deployments, and changes the name of its ingress; `s` scales by its demand."""
    if app == "h":
        inner = deployment(f"w{draw.randrange(3)}-good", draw.randint(1, 2), name=DeploymentName("i"))
        return inner, deployment(version, replicas, name=DeploymentName(draw.choice(("d", "e"))))
    if app == "s":
        scaling = autoscaled(draw.choice((0, 1, 1)), replicas)
        return (deployment(version, 1, autoscaling=scaling, max_ongoing_requests=2),)
    return (deployment(version, replicas, 1000 if app == "g" else 0),)


# --- rest ---------------------------------------------------------------------------------------------------------


def _come_to_rest(world: SimWorld) -> float:
    """Until what is wanted is what there is, nothing is planned, and all answers; how long that took."""
    began = world.now
    for caller in world.callers:
        caller.quiet = True
    reasons = _wait_for_rest(world, began)
    if not reasons:
        asked = [caller.ask_last(key) for caller in world.callers for key in answering(world)]
        world.run_for(ANSWERS_S)
        reasons = [why for each in asked if (why := each())] or _wait_for_rest(world, world.now)
    for reason in reasons:
        world.invariants.failed(f"not settled after {world.now - began:.0f} s: {reason}")
    if not world.happened["good version ready"]:
        world.invariants.failed("no good version ever got ready")
    return world.now - began


def _wait_for_rest(world: SimWorld, began: float) -> list[str]:
    while (reasons := not_settled(world)) and world.now - began <= SETTLES_S and not world.invariants.broken:
        world.run_for(1.0)
    return reasons


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":  # as the tests have it: the order of sets of words is part of a story
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.simulation.story", *sys.argv[1:]])
    told = tell(int(sys.argv[1]))
    print("\n".join((*told.history, *told.broken)))
    print(f"{told.faults} faults, settled after {told.settled_s:.1f} s, {told.steps} steps, hash {told.hash[:16]}")
