"""Many seeds, each ten virtual minutes of trouble: nothing that must hold is broken, and all ends well."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from serve_rt.agents.life_cycle import PROCESS_TRANSITIONS, Process
from serve_rt.model.cluster import ROLLOUT_TRANSITIONS, RolloutPhase
from serve_rt.model.replica import REPLICA_TRANSITIONS, ReplicaState
from serve_rt.model.transitions import Transitions
from tests.simulation.many import Stories
from tests.simulation.story import MIN_FAULTS, Told, tell
from tests.simulation.wire_faults import FAULTS
from tests.simulation.world import transition

SEEDS = range(200)
MORE_SEEDS = range(200, 500)
LONGEST_S = 600
"""For a test that waits for the first stories, on a machine that does other things too."""
TABLES: tuple[Transitions[Any], ...] = (
    REPLICA_TRANSITIONS,
    PROCESS_TRANSITIONS,
    ROLLOUT_TRANSITIONS,
)  # Any: of many enums
GONE_BACK_FROM = (RolloutPhase.ROLLING, RolloutPhase.STEADY, RolloutPhase.FAILED)
NEVER = {
    # A replica that is told to end drains first, and one in BACKOFF is settled at once.
    *(transition(state, ReplicaState.STOPPED) for state in (ReplicaState.STARTING, ReplicaState.READY)),
    transition(ReplicaState.UNHEALTHY, ReplicaState.STOPPED),
    transition(ReplicaState.BACKOFF, ReplicaState.DRAINING),
    # `adopted`, `died` and `swept` say what was found, not what is brought about: they make no move.
    transition(Process.NONE, Process.RUNNING),
    transition(Process.SPAWNING, Process.KILLING),
    transition(Process.RUNNING, Process.NONE),
    transition(Process.KILLING, Process.NONE),
    # Here every spawn succeeds in the end: blobs and ports are always there.
    transition(Process.SPAWNING, Process.NONE),
    # Users go back only from what has come to an end, or is on its way up.
    *(transition(phase, RolloutPhase.ROLLING_BACK) for phase in RolloutPhase if phase not in GONE_BACK_FROM),
}
SELDOM = {
    # Phases of a fraction of a second: a change must fall into it. Told by tests/controller/scenarios instead.
    transition(RolloutPhase.DOWNSCALING, RolloutPhase.UPSCALING),
    transition(RolloutPhase.DOWNSCALING, RolloutPhase.ROLLING),
    transition(RolloutPhase.DOWNSCALING, RolloutPhase.DELETING),
    transition(RolloutPhase.DELETING, RolloutPhase.ROLLING),
    transition(RolloutPhase.ROLLING_BACK, RolloutPhase.DELETING),
    transition(RolloutPhase.FAILED, RolloutPhase.ROLLING_BACK),
}


@pytest.fixture(scope="module")
def stories(request: pytest.FixtureRequest) -> Iterator[Stories]:
    """Told from now on, in processes of their own: those that the chosen tests ask for."""
    with Stories(_asked_for(request.session.items)) as made:
        yield made


def _asked_for(items: Iterable[pytest.Item]) -> list[int]:
    specs = (getattr(item, "callspec", None) for item in items if item.path.name == "test_simulation.py")
    return [spec.params["seed"] for spec in specs if spec is not None]


@pytest.mark.timeout(LONGEST_S)
@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_happens_nothing_is_broken_and_all_ends_well(stories: Stories, seed: int) -> None:
    check(stories.told(seed))


@pytest.mark.chaos
@pytest.mark.timeout(LONGEST_S)
@pytest.mark.parametrize("seed", MORE_SEEDS)
def test_nor_for_many_more_seeds(stories: Stories, seed: int) -> None:
    check(stories.told(seed))


def check(story: Told) -> None:
    assert not story.broken, str(story)
    assert story.faults >= MIN_FAULTS


def test_the_same_seed_tells_the_same_story() -> None:
    first, second = tell(3, length_s=120.0), tell(3, length_s=120.0)
    assert first.history == second.history
    assert first.hash == second.hash
    assert tell(4, length_s=120.0).hash != first.hash


@pytest.mark.timeout(LONGEST_S)
def test_every_kind_of_fault_and_every_transition_occurs(stories: Stories) -> None:
    happened: Counter[str] = Counter()
    for seed in SEEDS:
        happened.update(stories.told(seed).happened)
    asked = {f"fault {kind}" for kind in FAULTS} | {name for table in TABLES for name in moves(table)}
    assert {name for name in asked if not happened[name]} - NEVER - SELDOM == set()


def moves(table: Transitions[Any]) -> list[str]:  # Any: one table of many enums
    return [transition(old, new) for old, many in table.items() for new in many]
