"""Many seeds, each ten virtual minutes of trouble: nothing that must hold is broken, and all ends well."""

from __future__ import annotations

import pytest

from tests.simulation.story import MIN_FAULTS, tell

SEEDS = range(20)


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_happens_nothing_is_broken_and_all_ends_well(seed: int) -> None:
    told = tell(seed)
    assert not told.broken, str(told)
    assert told.faults >= MIN_FAULTS


def test_the_same_seed_tells_the_same_story() -> None:
    first, second = tell(3, length_s=120.0), tell(3, length_s=120.0)
    assert first.history == second.history
    assert first.hash == second.hash
    assert tell(4, length_s=120.0).hash != first.hash
