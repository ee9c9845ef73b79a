"""The line of requests without a slot: what it takes in."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from serve_rt.routing.waiting import MAX_HELD_BYTES, HeldBodies, WaitingLine


def _waits(arrival: int, size: int) -> Any:  # Any: of an Exchange a line needs no more
    return cast(Any, SimpleNamespace(arrival=arrival, request=SimpleNamespace(body=range(size))))


def test_a_body_over_the_bound_may_wait_alone() -> None:
    line = WaitingLine(HeldBodies())
    assert not line.full(-1, MAX_HELD_BYTES + 1)
    line.push(_waits(1, 10))
    assert line.full(-1, MAX_HELD_BYTES + 1) and not line.full(-1, 10)
    assert line.full(1, 0) and not line.full(2, 0)


def test_those_who_left_from_behind_one_that_waits_leave_no_place_behind() -> None:
    line = WaitingLine(HeldBodies())
    line.push(_waits(0, 0))
    for arrival in range(1, 2000):
        line.push(_waits(arrival, 0))
        assert line.remove(_waits(arrival, 0))
    assert len(line._heap) < 200
    line.push(_waits(5000, 0))
    first = line.first()
    assert first is not None and first.arrival == 0
