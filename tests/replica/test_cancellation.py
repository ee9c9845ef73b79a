"""Callers that leave, deadlines that pass, and slots that are free only when the work has ended."""

from __future__ import annotations

import asyncio
import time

from serve_rt.model.spec import DeploymentOptions
from serve_rt.pb import stream_pb2 as pb
from tests.replica import deployments as d
from tests.replica.conftest import Marks, Start


def test_cancelled_handler_sees_it_within_100_ms(start: Start, marks: Marks) -> None:
    replica = start(d.Async, str(marks))

    async def talk() -> None:
        async with replica.client() as client:
            took_s: list[float] = []
            for number in range(1, 6):
                hang = client.http(query=b"do=hang")
                await marks.appears("hanging", times=number)
                began_s = time.monotonic()
                client.cancel(hang)
                await hang.whole()
                took_s.append(time.monotonic() - began_s)
                assert hang.of(pb.Ended) and marks.words.count("cancelled") == number
            assert sorted(took_s)[2] < 0.1, took_s  # the middle one: a busy machine may hold one of them up

    asyncio.run(talk())


def test_cancelled_stream_runs_its_finally(start: Start, marks: Marks) -> None:
    replica = start(d.Async, str(marks))

    async def talk() -> None:
        async with replica.client() as client:
            endless = client.http(query=b"do=endless")
            await endless.at_least(3, pb.Data)
            client.cancel(endless)
            await endless.whole()
            assert marks.words == ["cancelled", "finally"]

    asyncio.run(talk())


def test_cancelled_before_its_first_step_is_not_lost(start: Start) -> None:
    replica = start(d.Async)

    async def talk() -> None:
        async with replica.client() as client:
            blocked = client.http(query=b"do=block&s=0.3")
            late = [client.http(query=b"do=hang") for _ in range(3)]
            for answer in late:
                client.cancel(answer)
            await asyncio.gather(blocked.whole(), *(answer.whole() for answer in late))
            assert all(answer.of(pb.Ended) for answer in late)
            assert (await client.http(query=b"do=text").whole()).head.status == 200

    asyncio.run(talk())


def test_sync_handler_keeps_its_slot_until_it_ends(start: Start, marks: Marks) -> None:
    replica = start(d.Sync, options=DeploymentOptions(max_ongoing_requests=1))

    async def talk() -> None:
        async with replica.client() as client:
            waiting = client.call("wait_for_cancel", str(marks))
            await marks.appears("started")
            client.cancel(waiting)
            refused = await client.call("sleep", 0.0).whole()
            assert refused.of(pb.Rejected), refused.parts
            await waiting.whole()
            assert waiting.of(pb.Ended) and marks.words == ["seen True"]
            assert (await client.call("sleep", 0.0).whole()).value == 1

    asyncio.run(talk())


def test_deadline_cancels_the_work_and_is_told(start: Start, marks: Marks) -> None:
    replica = start(d.Async, str(marks))

    async def talk() -> None:
        async with replica.client() as client:
            late = await client.http(query=b"do=hang", time_left_ms=150).whole()
            assert late.error.kind == "DeadlineExceededError"
            await marks.appears("cancelled")
            assert (await client.http(query=b"do=text", time_left_ms=5000).whole()).head.status == 200

    asyncio.run(talk())


def test_work_whose_deadline_passed_while_it_waited_never_starts(start: Start, marks: Marks) -> None:
    replica = start(d.Async, str(marks))

    async def talk() -> None:
        async with replica.client() as client:
            blocked = client.http(query=b"do=block&s=0.4")
            late = await client.http(query=b"do=hang", time_left_ms=100).whole()
            assert late.error.kind == "DeadlineExceededError"
            await blocked.whole()
            await client.http(query=b"do=text").whole()
            assert not marks.words, "the handler of the expired request ran"

    asyncio.run(talk())


def test_cancellation_reaches_the_calls_made_for_the_request(start: Start, marks: Marks) -> None:
    """Nobody awaits them in a task that a cancellation could reach: the handler waits in a thread."""
    replica = start(d.Models, str(marks))

    async def talk() -> None:
        async with replica.client() as client:
            waiting = client.call("wait_for_child")
            await marks.appears("waiting")
            client.cancel(waiting)
            await waiting.whole()
            assert waiting.of(pb.Ended) and marks.words[-1] == "child cancelled True"

    asyncio.run(talk())


def test_broken_stream_cancels_what_it_carried(start: Start, marks: Marks) -> None:
    replica = start(d.Async, str(marks))

    async def talk() -> None:
        async with replica.client() as client:
            client.http(query=b"do=hang")
            await marks.appears("hanging")
        await marks.appears("cancelled")

    asyncio.run(talk())
