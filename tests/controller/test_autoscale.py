"""The autoscaler's arithmetic: Ray's formula case by case, its bounds and delays as properties, no swing."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_rt.controller.autoscale import Decision, Demand, Timer, desired
from serve_rt.controller.demand import Counts, NodeDemand, Peak, Series, all_heard, read_report
from serve_rt.model.spec import AutoscalingOptions
from serve_rt.pb import control_pb2 as pb

AT_ONCE = {"upscale_delay_s": 0.0, "downscale_delay_s": 0.0}
ANY_TIME = settings(deadline=None)
"""Another process of the machine may hold up one example for longer than hypothesis allows."""


def at_once(**options: float) -> AutoscalingOptions:
    known = {"min_replicas": 0, "max_replicas": 100, "target_ongoing_requests": 2.0, **AT_ONCE}
    return AutoscalingOptions(**{**known, **options})  # type: ignore[arg-type]  # options by name


def target(options: AutoscalingOptions, total: float, running: int, now_wanted: int | None = None) -> int:
    wanted = running if now_wanted is None else now_wanted
    return desired(options, Demand(total, total, total, True), running, wanted, Timer(), 0.0).target


# --- the formula --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "total", "running", "expected"),
    [
        ({}, 10.0, 2, 5),
        ({}, 10.1, 2, 6),
        ({}, 6.0, 5, 3),
        ({}, 0.0, 5, 1),  # never from many to none
        ({}, 0.0, 1, 0),
        ({"min_replicas": 1}, 0.0, 1, 1),
        ({"max_replicas": 4}, 50.0, 2, 4),
        ({"upscaling_factor": 0.5}, 20.0, 2, 6),
        ({"upscaling_factor": 2.0}, 10.0, 2, 8),
        ({"downscaling_factor": 0.5}, 4.0, 10, 6),
        ({"downscaling_factor": 0.1}, 17.0, 10, 9),  # a small factor still goes down
        ({}, 0.1, 0, 1),
        ({"upscaling_factor": 3.0}, 0.1, 0, 3),
        ({"upscaling_factor": 0.3}, 0.1, 0, 1),
    ],
)
def test_formula(options: dict[str, float], total: float, running: int, expected: int) -> None:
    assert target(at_once(**options), total, running) == expected


def test_from_none_at_once_whatever_the_delay() -> None:
    options = at_once(upscale_delay_s=600.0)
    decision = desired(options, Demand(0.0, 1.0, 0.0, False), 0, 0, Timer(), 0.0)
    assert decision.target == 1, decision.why


def test_all_starting_waits_for_them() -> None:
    assert target(at_once(), 40.0, running=0, now_wanted=3) == 3


def test_delays_are_counted_from_the_first_decision_that_way() -> None:
    options = at_once(upscale_delay_s=30.0, downscale_delay_s=600.0)
    up, level, down = (Demand(total, total, total, True) for total in (8.0, 4.0, 1.0))
    story = [(up, 0, 2), (up, 29, 2), (level, 29.5, 2), (up, 29.6, 2), (up, 59.5, 2), (down, 59.55, 2), (up, 59.6, 2)]
    timer = Timer()
    for demand, now, expected in story:
        decision = desired(options, demand, 2, 2, timer, now)
        assert decision.target == expected, (now, decision.why)
        timer = decision.timer
    assert desired(options, up, 2, 2, timer, 89.6).target == 4


def test_to_none_has_a_delay_of_its_own() -> None:
    options = at_once(downscale_delay_s=10.0, downscale_to_zero_delay_s=60.0)
    nothing, since = Demand(0.0, 0.0, 0.0, True), Timer(-1, 0.0)
    assert desired(options, nothing, 2, 2, since, 10.0).target == 1
    assert desired(options, nothing, 1, 1, since, 59.0).target == 1
    assert desired(options, nothing, 1, 1, since, 60.0).target == 0
    assert desired(options, Demand(0.0, 1.0, 0.0, True), 1, 1, since, 60.0).target == 1, "one has just come"


def test_a_fall_lands_on_the_busiest_moment_of_the_look_back() -> None:
    expired = Timer(-1, -700.0)
    assert desired(at_once(), Demand(4.0, 4.0, 13.0, True), 9, 9, expired, 0.0).target == 7
    assert desired(at_once(), Demand(4.0, 4.0, 40.0, True), 9, 9, expired, 0.0).target == 9
    assert desired(at_once(), Demand(0.0, 0.0, 1.0, True), 1, 1, expired, 0.0).target == 0


# --- properties ---------------------------------------------------------------------------------------------------

counts = st.integers(0, 12)
totals = st.floats(0.0, 100.0)
times = st.floats(0.0, 1000.0)


@st.composite
def some_options(draw: st.DrawFn) -> AutoscalingOptions:
    lowest = draw(st.integers(0, 5))
    return AutoscalingOptions(
        min_replicas=lowest,
        max_replicas=draw(st.integers(max(1, lowest), 12)),
        target_ongoing_requests=draw(st.floats(0.1, 20.0)),
        upscaling_factor=draw(st.floats(0.1, 3.0)),
        downscaling_factor=draw(st.floats(0.1, 3.0)),
        upscale_delay_s=draw(st.sampled_from([0.0, 1.0, 30.0])),
        downscale_delay_s=draw(st.sampled_from([0.0, 1.0, 600.0])),
        downscale_to_zero_delay_s=draw(st.sampled_from([None, 0.0, 5.0])),
    )


@st.composite
def some_timer(draw: st.DrawFn) -> Timer:
    return Timer(draw(st.sampled_from([-1, 0, 1])), draw(times))


@ANY_TIME
@given(some_options(), totals, totals, st.booleans(), counts, counts, some_timer(), times)
def test_bounds_and_what_never_happens(
    options: AutoscalingOptions,
    total: float,
    above: float,
    complete: bool,
    running: int,
    wanted: int,
    timer: Timer,
    now: float,
) -> None:
    wanted = max(options.min_replicas, min(options.max_replicas, wanted))
    decision = desired(options, Demand(total, total, total + above, complete), running, wanted, timer, now)
    assert options.min_replicas <= decision.target <= options.max_replicas
    if decision.target < wanted:
        assert complete, "missing is not zero"
        assert decision.target >= 1 or wanted == 1, "never from many to none"
        assert decision.target > 0 or total == 0.0
        assert decision.target >= running or wanted <= running, "no running one goes while others start"
    if running == 0 and total > 0 and options.max_replicas:
        assert decision.target >= 1


@ANY_TIME
@given(some_options(), totals, totals, counts, counts)
def test_more_demand_never_means_less(
    options: AutoscalingOptions, one: float, other: float, running: int, wanted: int
) -> None:
    less, more = sorted((one, other))
    wanted = max(options.min_replicas, min(options.max_replicas, wanted))

    def decided(total: float) -> Decision:
        return desired(options, Demand(total, total, total, True), running, wanted, Timer(), 0.0)

    assert decided(less).target <= decided(more).target


def targets_on_a_square_wave(
    height: float, period_s: float, per_replica: float, delay_s: float, *, peaked: bool = True
) -> list[int]:
    """The target at each look, from the second minute on."""
    options = at_once(
        max_replicas=200,
        target_ongoing_requests=per_replica,
        look_back_period_s=10.0,
        upscale_delay_s=delay_s,
        downscale_delay_s=delay_s,
        min_replicas=1,
    )
    series, peaks, timer, wanted = Series(0.0), Peak(), Timer(), 1
    targets: list[int] = []
    edge = 0
    for step in range(800):
        now = step * 0.25
        while edge * period_s / 2 <= now:  # at the very edges: samples would beat against the wave
            series.note(0.0 if edge % 2 else height, edge * period_s / 2)
            edge += 1
        total = series.aggregate("mean", options.look_back_period_s, now)
        peak = peaks.note(total, options.look_back_period_s, now) if peaked else total
        decision = desired(options, Demand(total, series.latest, peak, True), wanted, wanted, timer, now)
        timer, wanted = decision.timer, decision.target
        targets += [wanted] if now >= 60.0 else []
    return targets


@ANY_TIME
@given(st.floats(1.0, 50.0), st.floats(0.5, 8.0), st.sampled_from([0.5, 1.0, 2.0]), st.sampled_from([1.0, 10.0]))
def test_a_square_wave_does_not_make_it_swing(
    height: float, period_s: float, per_replica: float, delay_s: float
) -> None:
    """By one at most, where looks and wave beat against each other at the edge of a whole number."""
    targets = targets_on_a_square_wave(height, period_s, per_replica, delay_s)
    assert max(targets) - min(targets) <= 1, targets


def test_negative_control_without_the_peak_it_swings() -> None:
    targets = targets_on_a_square_wave(17.0, 7.5, 0.5, 1.0, peaked=False)
    assert max(targets) - min(targets) > 3
    assert len(set(targets_on_a_square_wave(17.0, 7.5, 0.5, 1.0))) == 1


# --- demand -------------------------------------------------------------------------------------------------------


def test_aggregates_weigh_by_time() -> None:
    series = Series(0.0)
    for value, at in ((10.0, 2.0), (4.0, 6.0), (0.0, 8.0)):
        series.note(value, at)
    assert series.aggregate("mean", 100.0, 10.0) == pytest.approx((10 * 4 + 4 * 2) / 10)
    assert series.aggregate("max", 100.0, 10.0) == 10.0
    assert series.aggregate("min", 100.0, 10.0) == 0.0
    assert series.aggregate("mean", 4.0, 10.0) == pytest.approx(4 * 2 / 4)
    assert series.aggregate("max", 3.0, 10.0) == 4.0
    assert series.aggregate("mean", 1.0, 100.0) == 0.0


def test_peak_forgets() -> None:
    peak = Peak()
    assert [peak.note(value, 5.0, now) for value, now in ((3, 0), (9, 1), (4, 3), (2, 6), (1, 7), (0, 9), (0, 20))] == [
        3, 9, 9, 9, 4, 2, 0,
    ]  # fmt: skip


@ANY_TIME
@given(st.lists(st.tuples(st.floats(0.0, 3.0), st.integers(0, 50)), max_size=60))
def test_the_mean_is_between_what_was_seen(steps: list[tuple[float, int]]) -> None:
    series, now = Series(0.0), 0.0
    for pause_s, value in steps:
        now += pause_s
        series.note(value, now)
        mean = series.aggregate("mean", 5.0, now)
        assert math.isfinite(mean)
        assert series.aggregate("min", 5.0, now) - 1e-6 <= mean <= series.aggregate("max", 5.0, now) + 1e-6


def reading(reporter: str, queued: int, ongoing: int, age_ms: int = 0) -> pb.DemandReport:
    entry = pb.DemandEntry(app="a", deployment="d", queued=queued, ongoing=ongoing)
    return pb.DemandReport(reporter=reporter, seq=1, entries=[entry], age_ms=age_ms)


def test_a_report_is_summed_over_its_reporters() -> None:
    report = pb.AssignReport(demand=[reading("p", 2, 3), reading("q", 0, 4)], demand_complete=True)
    word = read_report(report, 7.0)
    assert list(word.counts.values()) == [Counts(2, 7)] and word.complete and word.heard_at == 7.0
    assert not read_report(pb.AssignReport(demand=[reading("p", 0, 1, 4000)], demand_complete=True), 0.0).complete
    assert not read_report(pb.AssignReport(), 0.0).complete, "an older agent, or one that has just begun"


def test_every_agent_must_speak() -> None:
    good = NodeDemand({}, True, 10.0)
    assert all_heard([good, good], 12.0)
    assert not all_heard([good, None], 12.0)
    assert not all_heard([good, NodeDemand({}, False, 10.0)], 12.0)
    assert not all_heard([good], 13.5), "its word is old"
