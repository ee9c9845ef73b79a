"""Who leaves the rotation for the answers it gives, for how long, and that never too many do."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_rt.config import protections
from serve_rt.config.accepted import RequestRouterConfig
from serve_rt.model.routes import FailureRule
from serve_rt.routing import Router
from serve_rt.routing.outliers import LONGEST_EJECTION_S, Record, Standing, answered, at, may_eject_one, panics
from serve_rt.transport.server import ServerRequest
from tests.routing.replicas import Replica, Replicas, ask, outgoing, replicas, until

RULE = FailureRule((500, 503), consecutive=3, base_ejection_s=10.0)


def after(*failures: bool, record: Record | None = None, now: float = 0.0) -> Record:
    record = record or Record()
    for failed in failures:
        record = answered(at(record, now), failed, RULE, now, may_eject=True)
    return record


def test_so_many_in_a_row_and_no_fewer() -> None:
    assert after(True, True, False, True, True).standing is Standing.IN
    out = after(True, True, True)
    assert (out.standing, out.until_s) == (Standing.OUT, 10.0)


def test_on_trial_one_answer_decides_and_ejections_grow_longer() -> None:
    out = after(True, True, True)
    trial = at(out, 10.0)
    assert at(out, 9.9) is out and trial.standing is Standing.TRIAL
    again = after(True, record=trial, now=10.0)
    assert (again.standing, again.until_s) == (Standing.OUT, 30.0)
    well = after(False, record=trial, now=10.0)
    assert well.standing is Standing.IN
    assert after(True, True, record=well, now=11.0).standing is Standing.IN, "the count begins anew"
    assert after(True, True, True, record=well, now=11.0).until_s == 11.0 + 20.0
    assert after(True, True, True, record=well, now=21.0).until_s == 21.0 + 10.0, "forgiven for time spent well"


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 500)), max_size=60))
def test_nobody_is_out_for_ever(answers: list[tuple[bool, float]]) -> None:
    record, now = Record(), 0.0
    for failed, wait_s in answers:
        now += wait_s
        record = answered(at(record, now), failed, RULE, now, may_eject=True)
        if record.standing is Standing.OUT:
            assert record.until_s <= now + LONGEST_EJECTION_S
            assert at(record, record.until_s).standing is Standing.TRIAL


@given(st.integers(1, 60), st.integers(0, 100), st.integers(0, 60))
def test_the_cap_leaves_a_share_and_one(replicas: int, percent: int, out: int) -> None:
    if may_eject_one(replicas, out, percent):
        assert out + 1 <= replicas - 1 and (out + 1) / replicas <= percent / 100
    assert panics(replicas, replicas) and not panics(replicas, 0)


def test_only_what_a_replica_can_be_blamed_for_may_be_declared() -> None:
    assert RequestRouterConfig().failures() is None
    assert RequestRouterConfig(failure_statuses=[503, 500, 503]).failures() == FailureRule((500, 503))
    for status in (404, 429, 200, 600, True, "5xx"):
        with pytest.raises(ValueError, match="500 to 599"):
            RequestRouterConfig(failure_statuses=[status])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="list of statuses"):
        RequestRouterConfig(failure_statuses="503")  # type: ignore[arg-type]


def fails(status: int = 503) -> object:
    def act(request: ServerRequest) -> None:
        request.head(status, (), body=b"no", end=True)
        request.finished()

    return act


async def three(
    them: Replicas, rule: FailureRule | None, failing: int, status: int = 503
) -> tuple[Router, list[Replica]]:
    started = [await them.start(name, capacity=4) for name in ("one", "two", "three")]
    for bad in started[:failing]:
        bad.handler.act = fails(status)  # type: ignore[assignment]
    router = them.client(*started, failures=rule)
    await until(lambda: "3 idle" in repr(router), "links up")
    return router, started


async def failures_of_60(router: Router) -> int:
    return sum([await ask(router, f"r{n}") == b"no" for n in range(60)])


@pytest.mark.anyio
async def test_one_that_fails_is_left_out_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    async with replicas() as them:
        router, (bad, _, _) = await three(them, FailureRule((503,), 3, base_ejection_s=0.3), failing=1)
        while router.rotation.ejected()["failures"] == 0:
            await ask(router)
        assert len(bad.handler.started) == 3 and "declared failure" in caplog.text
        seen = len(bad.handler.started)
        bad.handler.act = None
        until_s = time.monotonic() + 10
        while len(bad.handler.started) == seen and time.monotonic() < until_s:
            await ask(router)
            await asyncio.sleep(0.01)
        assert len(bad.handler.started) > seen, "it is tried again when its time is over"
        await until(lambda: router.rotation.ejected()["failures"] == 0, "in rotation")


@pytest.mark.anyio
@pytest.mark.parametrize("switched_off", [False, True])
async def test_without_the_protection_it_goes_on_failing(monkeypatch: pytest.MonkeyPatch, switched_off: bool) -> None:
    if switched_off:
        monkeypatch.setattr(protections, "_disabled", lambda: frozenset({"outlier-eject"}))
    async with replicas() as them:
        router, _ = await three(them, FailureRule((503,), 3), failing=1)
        failed = await failures_of_60(router)
        assert failed > 6 if switched_off else failed == 3, failed


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("rule", "status"), [(None, 503), (FailureRule((503,), 1), 404), (FailureRule((503,), 1), 500)]
)
async def test_what_was_not_declared_never_counts(rule: FailureRule | None, status: int) -> None:
    async with replicas() as them:
        router, _ = await three(them, rule, failing=1, status=status)
        await failures_of_60(router)
        assert router.rotation.ejected()["failures"] == 0


@pytest.mark.anyio
async def test_when_all_fail_most_stay() -> None:
    async with replicas() as them:
        router, started = await three(them, FailureRule((503,), 2), failing=3)
        await failures_of_60(router)
        assert router.rotation.ejected()["failures"] == 1, "half of three at most"
        assert sorted(len(one.handler.started) > 2 for one in started) == [False, True, True]


@pytest.mark.anyio
@pytest.mark.parametrize("switched_off", [False, True])
async def test_in_a_panic_an_ejected_one_is_used(monkeypatch: pytest.MonkeyPatch, switched_off: bool) -> None:
    if switched_off:
        monkeypatch.setattr(protections, "_disabled", lambda: frozenset({"panic"}))
    async with replicas() as them:
        router, (bad, *others) = await three(them, FailureRule((503,), 2), failing=1)
        await failures_of_60(router)
        assert router.rotation.ejected()["failures"] == 1
        bad.handler.act = None
        for other in others:
            await other.kill()
        await until(lambda: router.rotation.ejected()["disconnected"] == 2, "both are gone")
        asked = asyncio.ensure_future(ask(router, "panic", retry_safe=True))
        done, _ = await asyncio.wait({asked}, timeout=1.0 if switched_off else 10.0)
        assert bool(done) is not switched_off
        asked.cancel()
        await asyncio.wait({asked})


@pytest.mark.anyio
async def test_silent_ones_are_used_when_most_are_and_some_answer() -> None:
    async with replicas() as them:
        router, started = await three(them, None, failing=0)
        for one in started:
            one.handler.act = one.handler.hold
        links = router.rotation._links()
        waiting = [asyncio.ensure_future(ask(router, f"r{n}")) for n in range(12)]
        await until(lambda: router.reserved == 12, "all slots are taken")
        for link in links[:2]:
            assert link.stream is not None
            link.stream.capacity = 8
            link.stream.unresponsive = True
        assert router.send_at_once(outgoing("more")) is not None, "two of three are silent, one is full: a panic"
        assert links[2].stream is not None
        links[2].stream.unresponsive = True
        assert router.send_at_once(outgoing("late")) is None, "nobody answers: it may wait, where moving is free"
        assert router.rotation.ejected()["silence"] == 3
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
