"""When a new version counts as worse than the old one, and from which reports the leader knows."""

from __future__ import annotations

import random

import pytest

from serve_rt.controller.demand import all_tallies, read_report
from serve_rt.controller.guard import fault_of, surely_above
from serve_rt.model.ids import AppName, DeploymentKey, DeploymentName, VersionId
from serve_rt.model.spec import GuardOptions
from serve_rt.model.tally import BUCKETS, Tally, bucket_end_s, bucket_of, together
from serve_rt.pb import control_pb2 as pb

GUARD = GuardOptions()
SLOW = GuardOptions(error_rate=None, latency_factor=2.0)


def counted(seconds: list[float], errors: int = 0) -> Tally:
    latencies = [0] * BUCKETS
    for one in seconds:
        latencies[bucket_of(one)] += 1
    return Tally(len(seconds), errors, tuple(latencies))


@pytest.mark.parametrize(
    ("old", "new", "bad"),
    [
        (Tally(100, 0), Tally(2, 2), False),
        (Tally(100, 0), Tally(4, 3), True),
        (Tally(0, 0), Tally(0, 3), True),
        (Tally(100, 0), Tally(50, 3), False),
        (Tally(100, 0), Tally(50, 8), True),
        (Tally(100, 16), Tally(50, 8), False),
        (Tally(0, 0), Tally(1000, 40), False),
        (Tally(0, 0), Tally(1000, 80), True),
    ],
    ids=["two are too few", "three of four", "no answer at all", "three of fifty", "eight of fifty", "as bad as before",
         "within what is allowed", "surely above it"],
)  # fmt: skip
def test_errors(old: Tally, new: Tally, bad: bool) -> None:
    assert bool(fault_of(GUARD, old, new)) is bad
    assert not fault_of(SLOW, old, new), "not looked at"


def test_a_bad_version_is_found_within_fifty_requests_and_a_good_one_is_left_alone() -> None:
    chance = random.Random(7)
    old = Tally(500, 5)
    for share, most in ((1.0, 4), (0.5, 20), (0.25, 50)):
        needed = []
        for _ in range(200):
            errors = 0
            for ended in range(1, 1000):
                errors += chance.random() < share
                if fault_of(GUARD, old, Tally(ended, errors)):
                    needed.append(ended)
                    break
        assert sorted(needed)[int(0.95 * len(needed))] <= most, (share, sorted(needed)[190])
    wrongly = 0
    for _ in range(200):
        errors = 0
        for ended in range(1, 300):
            errors += chance.random() < 0.01
            if fault_of(GUARD, old, Tally(ended, errors)):
                wrongly += 1
                break
    assert wrongly <= 10, "looked at 300 times each, as bad as before"


def test_slow_answers() -> None:
    old = counted([0.010] * 300)
    assert not fault_of(SLOW, old, counted([0.010] * 30))
    assert not fault_of(SLOW, counted([0.010] * 19), counted([0.5] * 19)), "nobody knows what was usual"
    assert not fault_of(SLOW, old, counted([0.010] * 50 + [0.5] * 2)), "two unlucky ones"
    assert "3 of its 3 answers took more than" in fault_of(SLOW, old, counted([0.5] * 3))
    assert fault_of(SLOW, old, counted([0.010] * 50 + [0.5] * 5))
    assert not fault_of(SLOW, old, counted([0.010] * 500 + [0.5] * 5)), "one in a hundred"
    assert not fault_of(SLOW, counted([0.001] * 300), counted([0.003] * 50)), "a few milliseconds are nobody's pain"
    assert not fault_of(SLOW, counted([0.001] * 90 + [0.5] * 10), counted([0.001] * 20 + [0.5] * 8)), "as before"
    assert not fault_of(GUARD, old, counted([5.0] * 50)), "not looked at"


def test_buckets_hold_what_they_say() -> None:
    for seconds in (0.0, 0.0005, 0.001, 0.0011, 0.02, 1.0, 59.0):
        bucket = bucket_of(seconds)
        assert seconds <= bucket_end_s(bucket) * (1 + 1e-9)
        assert bucket == 0 or seconds > bucket_end_s(bucket - 1) * (1 - 1e-9)
    assert bucket_of(1e9) == BUCKETS - 1


def test_the_lower_bound_is_below_the_share() -> None:
    for errors, ended in ((0, 1), (1, 1), (5, 10), (100, 100), (7, 1000)):
        assert 0.0 <= surely_above(errors, ended) <= errors / ended + 1e-12


def test_reporters_and_nodes_are_added_up() -> None:
    def reading(reporter: str, answered: int, errors: int) -> pb.DemandReport:
        tally = pb.VersionTally(
            app="a", deployment="d", version="v", answered=answered, errors=errors, latencies=[1, 2]
        )
        return pb.DemandReport(reporter=reporter, seq=1, tallies=[tally])

    one = read_report(pb.AssignReport(demand=[reading("p", 5, 1), reading("q", 7, 0)]), 0.0)
    other = read_report(pb.AssignReport(demand=[reading("r", 1, 1)]), 0.0)
    seen = all_tallies([one, other])
    tally = seen[DeploymentKey(AppName("a"), DeploymentName("d"))][VersionId("v")]
    assert (tally.answered, tally.errors, tally.latencies[:3]) == (13, 2, (3, 6, 0))
    assert together([]) == Tally(0, 0, (0,) * BUCKETS)
