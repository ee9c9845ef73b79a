"""The autoscaler in the leader: what it writes, what its successor finds, waves, and what it tells."""

from __future__ import annotations

import itertools

import pytest

from serve_rt.controller.rollout import replicas_wanted
from serve_rt.controller.scaling import Scaling
from serve_rt.model.ids import AppName, DeploymentKey
from serve_rt.model.spec import AutoscalingOptions
from tests.controller.world import World, application, deployment_spec, node_record


def scaled_world(**options: object) -> tuple[World, DeploymentKey]:
    """One deployment that is settled, with one replica at first."""
    world = World()
    world.add_node(node_record("a", cpu=64000))
    app = application("x", deployment_spec("d", autoscaling=AutoscalingOptions(**options)))  # type: ignore[arg-type]  # by name
    world.deploy(app)
    world.settle()
    return world, app.keys()[0]


def live(world: World, key: DeploymentKey, seconds: float, demand: int, look_s: float = 1.0) -> int:
    """Time passes under a level demand; the revisions that were written."""
    before, until = world.revision, world.now + seconds
    world.demand[key] = demand
    while world.now < until:
        world.now += look_s
        if world.look() or world.scaling.notes:
            world.settle()
    return world.revision - before


def wanted(world: World, key: DeploymentKey) -> int:
    return replicas_wanted(world.cluster.deployments[key])


def test_writes_only_when_the_target_changes() -> None:
    """An hour of changing demand that comes to nothing costs etcd nothing."""
    world, key = scaled_world(min_replicas=1, max_replicas=9, upscale_delay_s=60.0, look_back_period_s=5.0)
    before = world.revision
    for _ in range(180):
        live(world, key, 10.0, 40)
        live(world, key, 10.0, 1)
    assert wanted(world, key) == 1 and world.revision == before


def test_a_delay_that_holds_is_saved_a_few_times() -> None:
    world, key = scaled_world(min_replicas=1, max_replicas=9, upscale_delay_s=60.0, look_back_period_s=5.0)
    assert live(world, key, 50.0, 40) == 3 and wanted(world, key) == 1
    assert live(world, key, 10.0, 1) == 1, "taken back"
    assert not world.cluster.deployments[key].scaling.direction


def test_a_timer_survives_the_leader() -> None:
    """600 s of delay, a new leader after 500: it falls about 100 s later, not 600, and never sooner."""
    world, key = scaled_world(min_replicas=1, max_replicas=9, upscale_delay_s=0.0, look_back_period_s=5.0)
    live(world, key, 20.0, 8)
    assert wanted(world, key) == 4
    live(world, key, 500.0, 1)
    world.new_leader()
    live(world, key, 99.0, 1)
    assert wanted(world, key) == 4
    live(world, key, 600.0 / 4 + 10.0, 1)
    assert wanted(world, key) == 1


def test_a_timer_that_was_reset_is_not_found_by_the_next_leader() -> None:
    world, key = scaled_world(min_replicas=1, max_replicas=9, upscale_delay_s=0.0, look_back_period_s=5.0)
    live(world, key, 20.0, 8)
    live(world, key, 500.0, 1)
    live(world, key, 10.0, 8)
    world.new_leader()
    live(world, key, 590.0, 1)
    assert wanted(world, key) == 4


def test_a_silent_reporter_stops_the_timer_and_does_not_reset_it() -> None:
    world, key = scaled_world(
        min_replicas=1, max_replicas=9, upscale_delay_s=0.0, downscale_delay_s=60.0, look_back_period_s=5.0
    )
    live(world, key, 20.0, 8)
    live(world, key, 40.0, 1)
    world.silent = True
    live(world, key, 300.0, 1)
    world.silent = False
    live(world, key, 10.0, 1)
    assert wanted(world, key) == 4
    live(world, key, 40.0, 1)
    assert wanted(world, key) == 1


def test_no_fall_within_one_look_back_of_an_election() -> None:
    world, key = scaled_world(
        min_replicas=0, max_replicas=9, upscale_delay_s=0.0, downscale_delay_s=0.0, look_back_period_s=30.0
    )
    live(world, key, 60.0, 8)
    assert wanted(world, key) == 4
    world.new_leader()
    live(world, key, 29.0, 0)
    assert wanted(world, key) == 4
    live(world, key, 40.0, 0)
    assert wanted(world, key) == 0


QUICK = {"upscale_delay_s": 1.0, "downscale_delay_s": 5.0, "look_back_period_s": 10.0}


def turns_on_a_wave(knobs: dict[str, float], *, learns: bool = True) -> tuple[int, list[int]]:
    """Changes of direction from the sixth to the fifteenth minute of a wave of twenty seconds, through leader and
    replicas; and the targets of that time."""
    world, key = scaled_world(min_replicas=1, max_replicas=30, **knobs)
    world.scaling = Scaling(world.now, learns=learns)
    targets = []
    for second in range(900):
        live(world, key, 1.0, 0 if second // 10 % 2 else 40)
        targets.append(wanted(world, key))
    learned = targets[300:]
    moves = [after - before for before, after in itertools.pairwise(learned) if after != before]
    return sum(one * other < 0 for one, other in itertools.pairwise(moves)), learned


@pytest.mark.parametrize("knobs", [{}, QUICK], ids=["usual", "quick"])
def test_a_square_wave_of_twenty_seconds_does_not_turn_it(knobs: dict[str, float]) -> None:
    """At most 2 changes of direction per 5 minutes are allowed; there is none, and there is room for the top."""
    turns, targets = turns_on_a_wave(knobs)
    assert turns == 0 and min(targets) >= (16 if knobs else 8), targets


def test_negative_control_without_learning_it_follows_the_wave() -> None:
    turns, _ = turns_on_a_wave(QUICK, learns=False)
    assert turns > 20


def test_what_a_wave_taught_is_forgotten_when_it_is_over() -> None:
    world, key = scaled_world(min_replicas=1, max_replicas=30, **QUICK)
    for second in range(120):
        live(world, key, 1.0, 0 if second // 10 % 2 else 40)
    assert wanted(world, key) >= 16
    live(world, key, 120.0, 2)
    assert wanted(world, key) == 1


def test_what_it_would_do_is_told_before_it_does() -> None:
    world, key = scaled_world(min_replicas=1, max_replicas=9, upscale_delay_s=60.0, look_back_period_s=5.0)
    live(world, key, 20.0, 8)
    (seen,) = world.scaling.overview(world.cluster).deployments
    assert (seen.target, seen.aim, seen.running, seen.ongoing, seen.complete) == (1, 4, 1, 8, True)
    assert seen.wait_s is not None and 40.0 <= seen.wait_s <= 46.0 and "must hold for 60 s" in seen.why
    assert world.scaling.overview(world.cluster, AppName("other")).deployments == ()
