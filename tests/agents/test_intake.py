"""Which readings of the assignments may be acted on."""

from __future__ import annotations

import pytest

from serve_rt.agents.intake import Answer, Reading, after, judge_reading
from serve_rt.agents.memory import HighWater

SEEN = HighWater("life-1", revision=100, epoch=40)


def reading(incarnation: str, revision: int, epoch: int, *, pushed: bool) -> Reading:
    return Reading(incarnation, revision, epoch, (), pushed=pushed)


@pytest.mark.parametrize(
    ("incoming", "answer"),
    [
        (reading("life-1", 101, 40, pushed=True), Answer.APPLY),
        (reading("life-1", 100, 40, pushed=True), Answer.APPLY),
        (reading("life-1", 99, 40, pushed=True), Answer.OLD),
        (reading("life-1", 101, 39, pushed=True), Answer.FENCED),
        (reading("life-1", 101, 0, pushed=False), Answer.APPLY),  # the watch: no leader just now
        (reading("life-1", 99, 41, pushed=False), Answer.OLD),
        (reading("life-2", 3, 2, pushed=True), Answer.OLD),  # believed from our own mirror only
        (reading("life-2", 3, 2, pushed=False), Answer.APPLY),
        (reading("", 300, 50, pushed=False), Answer.OLD),
    ],
)
def test_readings(incoming: Reading, answer: Answer) -> None:
    assert judge_reading(incoming, SEEN, fence=True) is answer


def test_without_the_fence_an_old_leader_is_obeyed() -> None:
    assert judge_reading(reading("life-1", 101, 39, pushed=True), SEEN, fence=False) is Answer.APPLY


def test_a_fresh_agent_believes_its_leader() -> None:
    assert judge_reading(reading("life-1", 5, 3, pushed=True), HighWater(), fence=True) is Answer.APPLY


def test_marks_only_rise_within_a_life_and_start_anew_with_another() -> None:
    assert after(reading("life-1", 120, 0, pushed=False), SEEN) == HighWater("life-1", 120, 40)
    assert after(reading("life-2", 3, 2, pushed=False), SEEN) == HighWater("life-2", 3, 2)
