"""The node's book of demand: one reading per reporter, late ones dropped, gone ones forgotten, never too soon."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from serve_rt.agents.demand import COMPLETE_AFTER_S, DROPPED_AFTER_S, MAX_REPORTERS, DemandBook
from serve_rt.pb import control_pb2 as pb


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def report(reporter: str, seq: int, counts: Mapping[str, int]) -> pb.DemandReport:
    entries = [pb.DemandEntry(app=app, deployment="d", ongoing=count) for app, count in counts.items()]
    return pb.DemandReport(reporter=reporter, seq=seq, entries=entries)


def told(book: DemandBook, now: float) -> dict[str, tuple[int, int]]:
    return {
        reading.reporter: (sum(entry.ongoing for entry in reading.entries), reading.age_ms)
        for reading in book.readings(now)
    }


def test_the_last_reading_of_each_with_its_age() -> None:
    book = DemandBook(0.0)
    for reporter in ("p", "q"):
        book.joined(reporter)
    book.take(report("p", 1, {"a": 3}), 1.0)
    book.take(report("q", 1, {"a": 1, "b": 1}), 1.5)
    book.take(report("p", 3, {"a": 5}), 2.0)
    book.take(report("p", 2, {"a": 9}), 2.1)  # overtaken on the way
    assert told(book, 2.5) == {"p": (5, 500), "q": (2, 1000)}
    book.take(report("p", 4, {}), 3.0)
    assert told(book, 9.0) == {"q": (2, 7500)}, "a silent one stands, and its age tells"


def test_a_reading_stands_a_moment_longer_than_its_stream() -> None:
    book = DemandBook(0.0)
    book.joined("p")
    book.take(report("p", 1, {"a": 3}), 1.0)
    book.left("p", 2.0)
    assert told(book, 2.0 + DROPPED_AFTER_S) and not told(book, 2.1 + DROPPED_AFTER_S)

    book.take(report("p", 2, {"a": 3}), 10.0)
    book.left("q", 10.0)  # one that never said anything
    book.joined("p")
    book.take(report("p", 3, {"a": 3}), 11.0)
    assert told(book, 100.0), "its stream is back and it has said it again"


def test_a_reading_of_a_former_life_is_dropped_though_the_stream_is_back() -> None:
    book = DemandBook(0.0)
    book.joined("p")
    book.take(report("p", 1, {"a": 3}), 1.0)
    book.left("p", 2.0)
    book.joined("p")
    assert told(book, 3.0) and not told(book, 2.1 + DROPPED_AFTER_S)


def test_two_streams_of_one_reporter() -> None:
    book = DemandBook(0.0)
    book.joined("p")
    book.joined("p")
    book.take(report("p", 1, {"a": 3}), 1.0)
    book.left("p", 2.0)
    assert told(book, 100.0)


def test_complete_only_when_all_had_the_time_to_find_us() -> None:
    book = DemandBook(100.0)
    assert not book.complete(100.0 + COMPLETE_AFTER_S - 0.1) and book.complete(100.0 + COMPLETE_AFTER_S)


def test_the_book_is_bounded() -> None:
    book = DemandBook(0.0)
    for number in range(MAX_REPORTERS + 10):
        book.take(report(f"r{number}", 1, {"a": 1}), 0.0)
    assert len(book.readings(0.0)) == MAX_REPORTERS
    book.take(report("later", 1, {"a": 1}), 1.0 + DROPPED_AFTER_S)
    assert set(told(book, 1.0 + DROPPED_AFTER_S)) == {"later"}


@pytest.mark.anyio
async def test_news_when_demand_comes_and_goes_not_at_each_repetition() -> None:
    book = DemandBook(0.0)
    book.joined("p")
    seen: list[None] = []

    async def listen() -> None:
        async for item in book.news():
            seen.append(item)

    async def news_after(reading: pb.DemandReport) -> int:
        seen.clear()
        book.take(reading, 0.0)
        for _ in range(3):
            await asyncio.sleep(0)
        return len(seen)

    async with asyncio.timeout(5):
        listening = asyncio.create_task(listen())
        await asyncio.sleep(0)
        assert await news_after(report("p", 1, {"a": 3})) == 1
        assert await news_after(report("p", 2, {"a": 4})) == 0
        assert await news_after(report("p", 3, {"a": 4, "b": 1})) == 1
        assert await news_after(report("p", 4, {})) == 1
        listening.cancel()
