"""The pure parts: choosing, retrying, waiting in line."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from serve_rt.errors import Outcome
from serve_rt.routing.latency import Latency
from serve_rt.routing.pick import pick
from serve_rt.routing.retry import BURST, Attempted, RetryBudget, may_run_again


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.integers(0, 99), st.integers(0, 99))
def test_the_busiest_is_never_picked_over_an_idler_pair(loads: list[int], turn: int, chance: int) -> None:
    chosen = pick(loads, lambda index: 0.0, turn, lambda n: chance % n)
    assert loads[chosen] <= loads[turn % len(loads)]


@given(st.integers(0, 50), st.integers(0, 99))
def test_of_two_the_one_that_would_be_done_first(load: int, turn: int) -> None:
    loads, latencies_s = [0, load], [1.0, 0.05]
    chosen = pick(loads, lambda index: latencies_s[index], turn, lambda n: 0)
    done_s = [(loads[index] + 1) * latencies_s[index] for index in (0, 1)]
    assert done_s[chosen] == min(done_s)


@given(st.floats(0.5, 1.0), st.integers(0, 99))
def test_latencies_that_are_nearly_the_same_play_no_part(ratio: float, turn: int) -> None:
    latencies_s = [0.02, 0.02 * ratio]
    assert pick([1, 1], lambda index: latencies_s[index], turn, lambda n: 0) == turn % 2


def test_a_slow_replica_gets_little_and_is_tried_again() -> None:
    """Three replicas, one 20 times slower until second 30; a request every 10 ms, virtual time."""
    chance = random.Random(1)
    latencies = [Latency() for _ in range(3)]
    running: list[list[float]] = [[], [], []]
    asked = [0, 0, 0]
    share = {"slow": 0.0, "recovered": 0.0}
    for step in range(9_000):
        now = step * 0.01
        for index, ends in enumerate(running):
            for end in [end for end in ends if end <= now]:
                ends.remove(end)
                latencies[index].answered(0.4 if index == 0 and end < 30 else 0.02, now)
        chosen = pick([len(ends) for ends in running], lambda i: latencies[i].seconds(now), step, chance.randrange)  # noqa: B023
        running[chosen].append(now + (0.4 if chosen == 0 and now < 30 else 0.02))
        asked[chosen] += 1
        if step == 1_000:
            asked = [0, 0, 0]
        elif step == 3_000:
            share["slow"] = asked[0] / sum(asked)
        elif step == 6_000:
            asked = [0, 0, 0]
    share["recovered"] = asked[0] / sum(asked)
    assert share["slow"] < 0.05, share
    assert 0.25 < share["recovered"] < 0.42, share


def test_retry_rules() -> None:
    def attempted(outcome: Outcome, **changed: bool) -> Attempted:
        fields = {"retry_safe": False, "retried": False, "answer_began": False, "replayable": True, **changed}
        return Attempted(outcome, **fields)

    assert may_run_again(attempted(Outcome.NOT_STARTED, retried=True))
    assert not may_run_again(attempted(Outcome.UNKNOWN))
    assert not may_run_again(attempted(Outcome.STARTED))
    assert may_run_again(attempted(Outcome.UNKNOWN, retry_safe=True))
    assert not may_run_again(attempted(Outcome.UNKNOWN, retry_safe=True, retried=True))
    assert not may_run_again(attempted(Outcome.STARTED, retry_safe=True, answer_began=True))
    assert not may_run_again(attempted(Outcome.NOT_STARTED, replayable=False))


def test_the_budget_is_a_tenth() -> None:
    budget = RetryBudget()
    spent = sum(budget.spend() for _ in range(1000))
    assert spent == BURST
    for _ in range(100):
        budget.earn()
    assert 9 <= sum(budget.spend() for _ in range(100)) <= 10
