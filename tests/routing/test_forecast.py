"""What the queue cannot serve before its deadline is refused at once, and nothing else is."""

from __future__ import annotations

import asyncio
import time

import pytest

from serve_rt.config import protections
from serve_rt.errors import DeadlineExceededError, DeadlineUnreachableError, Outcome
from serve_rt.routing.forecast import SPAN_S, Quickest, earliest_answer_s
from serve_rt.transport.server import ServerRequest
from tests.routing.replicas import Replica, ask, echo, replicas, until

WORK_S = 0.2


def test_the_bound_counts_rounds_of_slots() -> None:
    assert [earliest_answer_s(ahead, 2, 1.0) for ahead in range(5)] == [1.0, 1.0, 2.0, 2.0, 3.0]


def test_the_quickest_answer_is_forgotten() -> None:
    quickest = Quickest()
    assert quickest.fastest_s(100.0) == 0.0, "nothing is known"
    quickest.answered(0.5, 100.0)
    quickest.answered(0.2, 100.1)
    quickest.answered(0.9, 100.2)
    assert quickest.fastest_s(100.3) == 0.2
    quickest.answered(0.8, 100.0 + SPAN_S)
    assert quickest.fastest_s(101.1) == 0.2, "the span before counts too"
    quickest.answered(0.7, 101.0 + SPAN_S)
    assert quickest.fastest_s(102.1) == 0.7
    assert quickest.fastest_s(102.0 + 2 * SPAN_S) == 0.0, "after a silence nothing is known again"


@pytest.mark.anyio
class TestRouter:
    async def test_what_cannot_be_in_time_is_refused_at_once(self) -> None:
        async with replicas() as them:
            one = await them.start("one", capacity=1)
            work_slowly(one)
            router = them.client(one)
            await until(lambda: "1 idle" in repr(router), "link up")
            asked = [asyncio.ensure_future(ask(router, f"r{n}")) for n in range(5)]
            await until(lambda: router.waiting == 2, "two were answered, one after it had waited")
            began_s = time.monotonic()
            with pytest.raises(DeadlineUnreachableError, match="others wait") as refused:
                await ask(router, "late", deadline=began_s + WORK_S)
            assert refused.value.outcome is Outcome.NOT_STARTED and refused.value.http_status == 503
            assert time.monotonic() < began_s + WORK_S, "not at its deadline, but at once"
            assert await ask(router, "patient", deadline=time.monotonic() + 10 * WORK_S) == b"patient"
            assert await asyncio.gather(*asked) == [b"r0", b"r1", b"r2", b"r3", b"r4"]
            assert "late" not in one.handler.started

    async def test_a_slot_is_not_given_to_what_cannot_use_it(self) -> None:
        """It had a chance when it came; now that it is its turn too little time is left."""
        async with replicas() as them:
            one = await them.start("one", capacity=1)
            work_slowly(one)
            router = them.client(one)
            await until(lambda: "1 idle" in repr(router), "link up")
            now = time.monotonic()
            first = [asyncio.ensure_future(ask(router, f"r{n}")) for n in range(2)]
            # Until the second answer nothing is known: the third is taken in.
            late = asyncio.ensure_future(ask(router, "late", deadline=now + 2.8 * WORK_S))
            assert await asyncio.gather(*first) == [b"r0", b"r1"]
            with pytest.raises(DeadlineUnreachableError):
                await late
            assert "late" not in one.handler.started
            assert await ask(router, "next") == b"next"

    async def test_negative_control_without_it_the_slot_is_wasted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(protections, "_disabled", lambda: frozenset({"shed-late"}))
        async with replicas() as them:
            one = await them.start("one", capacity=1)
            work_slowly(one)
            router = them.client(one)
            await until(lambda: "1 idle" in repr(router), "link up")
            now = time.monotonic()
            first = [asyncio.ensure_future(ask(router, f"r{n}")) for n in range(2)]
            late = asyncio.ensure_future(ask(router, "late", deadline=now + 2.8 * WORK_S))
            await asyncio.gather(*first)
            with pytest.raises(DeadlineExceededError):
                await late
            assert "late" in one.handler.started


def work_slowly(replica: Replica) -> None:
    def act(request: ServerRequest) -> None:
        asyncio.get_running_loop().call_later(WORK_S, echo, request)

    replica.handler.act = act
