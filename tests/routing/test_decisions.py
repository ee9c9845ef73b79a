"""The pure parts: choosing, retrying, waiting in line."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serve_rt.errors import Outcome
from serve_rt.routing.pick import pick
from serve_rt.routing.retry import BURST, Attempted, RetryBudget, may_run_again


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.integers(0, 99), st.integers(0, 99))
def test_the_busiest_is_never_picked_over_an_idler_pair(loads: list[int], turn: int, chance: int) -> None:
    chosen = pick(loads, turn, lambda n: chance % n)
    assert loads[chosen] <= loads[turn % len(loads)]


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
