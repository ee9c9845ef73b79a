"""What is unread is bounded for all requests together, and whoever is read goes on."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_rt.transport import flow
from serve_rt.transport.client import ClientRequest
from serve_rt.transport.data import Data
from serve_rt.transport.flow import PROCESS, window_at
from serve_rt.transport.limits import (
    LEAST_WINDOW_BYTES,
    SMALL_WINDOW_BYTES,
    WIDE_ANSWER_BYTES,
    WIDE_BODY_BYTES,
    WINDOW_BYTES,
)
from tests.transport.pair import Answer, Pair

pytestmark = pytest.mark.anyio
BUDGET = 1 << 20
BODY = bytes(3 * WINDOW_BYTES)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def small_budget(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(flow, "STREAM_BUDGET_BYTES", BUDGET)
    gc.collect()
    PROCESS.settle()
    assert PROCESS.bytes == 0, "an earlier test has left something"
    PROCESS.live = 0  # earlier tests leave streams with requests behind
    yield


class Call:
    """A caller that reads the answer when the test says so."""

    def __init__(self, pair: Pair, body: bytes = b"") -> None:
        self.answer = Answer()
        self._read = 0
        self.request: ClientRequest = pair.client.open(b"", body, True, self.answer)

    def read(self) -> None:
        for part in self.answer.parts[self._read :]:
            self._read += 1
            if isinstance(part, Data):
                self.request.consumed(part.payload)

    @property
    def unread(self) -> int:
        return len(self.answer.parts) - self._read


def test_the_fuller_the_smaller_and_never_none() -> None:
    shares = [0.0, 0.49, 0.5, 0.74, 0.75, 1.0, 40.0]
    windows = [window_at(share) for share in shares]
    assert windows == [WINDOW_BYTES] * 2 + [SMALL_WINDOW_BYTES] * 2 + [LEAST_WINDOW_BYTES] * 3


async def test_answers_that_nobody_reads_stay_within_the_budget() -> None:
    pair = Pair(capacity=200).greet()
    calls = []
    for _ in range(100):
        calls.append(Call(pair))
        pair.settle()
        pair.handler.running[-1].head(200, [])
        pair.handler.running[-1].data(BODY, end=True)
        pair.settle()
    full = 100 * WINDOW_BYTES
    assert pair.client.budget.held <= BUDGET + 100 * LEAST_WINDOW_BYTES < full / 4, pair.client.budget.held
    while any(call.unread for call in calls):
        for call in calls:
            call.read()
        pair.settle()
    assert all(call.answer.ends == ["ended"] and len(call.answer.body) == len(BODY) for call in calls)
    assert pair.client.budget.window() == WINDOW_BYTES


async def test_a_crowd_that_is_opened_before_anything_comes_stays_within_the_budget() -> None:
    """What has been promised counts, not only what has arrived."""
    pair = Pair(capacity=200).greet()
    calls = [Call(pair) for _ in range(100)]
    pair.settle()
    for running in pair.handler.running:
        running.head(200, [])
        running.data(BODY, end=True)
        running.finished()
    pair.settle()
    assert pair.client.budget.held <= BUDGET + 100 * LEAST_WINDOW_BYTES < 100 * WINDOW_BYTES / 4
    while any(call.unread for call in calls):
        for call in calls:
            call.read()
        pair.settle()
    assert all(len(call.answer.body) == len(BODY) for call in calls)
    assert pair.client.budget.live == 0 and pair.client.budget.window() == WINDOW_BYTES


async def test_bodies_that_nobody_reads_stay_within_the_budget() -> None:
    pair = Pair(capacity=200).greet()
    calls = []
    for _ in range(100):
        calls.append(Call(pair, BODY))
        pair.settle()
    assert pair.server.budget.held <= BUDGET + 100 * LEAST_WINDOW_BYTES
    for running in pair.handler.running:
        got = 0
        while (part := await running.receive()) is not None:
            got += len(part.payload)
            pair.settle()
        assert got == len(BODY)
    Call(pair)
    pair.settle()
    assert pair.server.budget.held == 0 and pair.client.body_window == WINDOW_BYTES


async def test_what_is_dropped_is_given_back() -> None:
    pair = Pair(capacity=20).greet()
    calls = [Call(pair) for _ in range(6)]
    pair.settle()
    for running in pair.handler.running:
        running.head(200, [])
        running.data(BODY, end=False)
    pair.settle()
    assert pair.client.budget.held > BUDGET / 2
    for call in calls[:3]:
        call.request.cancel("not wanted")
    pair.settle()
    pair.client.budget.window()
    assert 0 < pair.client.budget.held <= 3 * SMALL_WINDOW_BYTES
    pair.cut()
    del calls, call
    pair.client.requests.clear()
    gc.collect()
    PROCESS.settle()
    assert PROCESS.bytes == 0


async def test_a_reader_that_waits_for_its_sender_gets_a_wider_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """And one that stops reading then has a wide window unread, no more."""
    monkeypatch.setattr(flow, "STREAM_BUDGET_BYTES", 64 << 20)
    pair = Pair(capacity=10).greet()
    call = Call(pair)
    pair.settle()
    [running] = pair.handler.running
    running.head(200, [])
    running.data(bytes(8 << 20), end=True)
    pair.settle()
    assert len(call.answer.body) <= WINDOW_BYTES
    for _ in range(10):
        call.read()
        pair.settle()
    unread = sum(len(part.payload) for part in call.answer.parts[-call.unread :] if isinstance(part, Data))
    assert WINDOW_BYTES < unread <= WIDE_ANSWER_BYTES <= pair.client.budget.held
    while call.unread:
        call.read()
        pair.settle()
    assert len(call.answer.body) == 8 << 20
    del call
    gc.collect()
    PROCESS.settle()
    assert PROCESS.bytes == 0, "what it was wider is given back"


async def test_so_do_bodies_as_long_as_a_quarter_of_the_budget_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "STREAM_BUDGET_BYTES", 16 << 20)
    pair = Pair(capacity=100).greet()
    calls = []
    for _ in range(12):
        calls.append(Call(pair, bytes(4 << 20)))
        pair.settle()
    for running in pair.handler.running:
        await running.receive()
        pair.settle()
    in_all = len(calls) * WINDOW_BYTES
    assert in_all < pair.server.budget.held < in_all + 3 * WIDE_BODY_BYTES


STEP = st.tuples(st.sampled_from(["open", "read", "cancel", "up", "down"]), st.integers(0, 30))


@given(st.lists(STEP, max_size=150), st.integers(1, 60_000), st.sampled_from([BUDGET, 6 * BUDGET]))
@settings(deadline=None, max_examples=60)
def test_however_they_are_mixed(steps: list[tuple[str, int]], tail: int, budget: int) -> None:
    """The bound holds at each step, and all that are read come to their end. The larger budget has room for wider
    windows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flow, "STREAM_BUDGET_BYTES", budget)
        asyncio.run(_mixed(steps, tail, budget))


async def _mixed(steps: list[tuple[str, int]], tail: int, budget: int) -> None:
    pair = Pair(capacity=100).greet()
    calls: list[Call] = []
    cancelled: set[int] = set()
    answered = 0
    body = bytes(budget // BUDGET * WINDOW_BYTES + tail)
    for step, which in steps:
        if step == "open":
            calls.append(Call(pair))
        elif step == "up":
            pair.up()
        elif step == "down":
            pair.down()
        elif calls and step == "read":
            calls[which % len(calls)].read()
        elif calls:
            cancelled.add(which % len(calls))
            calls[which % len(calls)].request.cancel("enough")
        for running in pair.handler.running[answered:]:
            answered += 1
            running.head(200, [])
            running.data(body, end=True)
            running.finished()
        slack = len(calls) * LEAST_WINDOW_BYTES
        assert 0 <= pair.client.budget.held <= budget + slack
    for _ in range(10_000):
        moved = pair.up() | pair.down()
        for running in pair.handler.running[answered:]:
            answered += 1
            running.head(200, [])
            running.data(body, end=True)
            running.finished()
        for number, call in enumerate(calls):
            if number not in cancelled:
                call.read()
        if not moved and all(c.answer.ends for n, c in enumerate(calls) if n not in cancelled):
            break
    for number, call in enumerate(calls):
        if number not in cancelled:
            assert call.answer.ends == ["ended"] and call.answer.body == body
    pair.cut()
