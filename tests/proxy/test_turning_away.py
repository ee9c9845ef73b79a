"""The queue is full: what comes is told so when its head is here, and its connection goes on where that is safe."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest

from serve_rt.observe.line_budget import LINES_PER_S, LineBudget
from serve_rt.proxy.arrivals import HELD_BYTES, REFUSALS_A_TURN, Arrivals
from serve_rt.proxy.http_protocol import ProxyHttpProtocol
from tests.proxy.front import Answered, Front, front, read_answer
from tests.routing.replicas import KEY, Replica, until

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@contextlib.asynccontextmanager
async def full(**route: Any) -> AsyncIterator[tuple[Front, Replica]]:
    """One runs, one waits, and nobody else may. Any: fields of a DeploymentRoute."""
    async with front(head_timeout_s=5.0, body_grace_s=5.0) as proxy:
        one = await proxy.replicas.start("one", capacity=1)
        one.handler.act = one.handler.hold
        await proxy.serve(one, max_queued_requests=1, **route)
        asked = [asyncio.ensure_future(proxy.get("/"))]
        await until(lambda: len(one.handler.held) == 1, "one runs")
        asked.append(asyncio.ensure_future(proxy.get("/")))
        await until(lambda: proxy.routers.router(KEY).waiting == 1, "one waits")
        try:
            yield proxy, one
        finally:
            one.handler.act = None
            one.handler.let_go()
            assert [(await answer).status for answer in asked] == [200, 200], "those who were let in are served"


async def test_a_refusal_says_all_that_any_other_answer_says() -> None:
    async with full(backpressure_status=429, backpressure_retry_after_s=7.0) as (proxy, one):
        named = await proxy.get("/", "x-request-id: mine\r\n")
        assert named.status == 429 and b"max_queued_requests=1" in named.body
        assert {name: named.headers[name] for name in ("x-request-id", "retry-after", "content-length")} == {
            "x-request-id": "mine", "retry-after": "7", "content-length": str(len(named.body)),
        }  # fmt: skip
        assert "date" in named.headers and "connection" not in named.headers
        assert len((await proxy.get("/")).headers["x-request-id"]) == 36, "who brought no name gets one"
        reader, writer = await proxy.connect()
        writer.write(b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\nGET / HTTP/1.1\r\nhost: x\r\nx-request-id: next\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"content-length: %d\r\n" % len(named.body) in head
        assert b"x-request-id: next" in await read_answer(reader), "a HEAD's answer has no body"
        counted = {labels: series.count for labels, series in proxy.app._forward.counts.series.items()}
        assert counted == {("app", "/", "GET", "429"): 3, ("app", "/", "HEAD", "429"): 1}
        assert len(one.handler.started) == 1 and proxy.routers.router(KEY).waiting == 1


async def test_a_short_body_is_not_waited_for_and_the_connection_goes_on() -> None:
    async with full() as (proxy, one):
        reader, writer = await proxy.connect()
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n" + b"x" * 10)
        refused = Answered.parse(await read_answer(reader))
        assert refused.status == 503 and "connection" not in refused.headers, "before the body came"
        writer.write(b"x" * 500)
        await asyncio.sleep(0)
        writer.write(b"x" * 490 + b"GET / HTTP/1.1\r\nhost: x\r\nx-request-id: next\r\n\r\n")
        again = Answered.parse(await read_answer(reader))
        assert (again.status, again.headers["x-request-id"]) == (503, "next"), "the body was not taken for a request"
        one.handler.act = None
        one.handler.let_go()
        await until(lambda: proxy.routers.router(KEY).waiting == 0, "there is room")
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc")
        assert (await read_answer(reader)).endswith(b"abc"), "and the next one is served on it"


@pytest.mark.parametrize(
    "head",
    [b"content-length: 100000", b"transfer-encoding: chunked", b"content-length: 10\r\nexpect: 100-continue"],
)
async def test_before_a_body_that_may_be_long_or_never_come_the_connection_ends(head: bytes) -> None:
    async with full() as (proxy, _):
        reader, writer = await proxy.connect()
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\n" + head + b"\r\n\r\n")
        refused = Answered.parse(await read_answer(reader))
        assert refused.status == 503 and refused.headers["connection"] == "close"
        assert await reader.read() == b"", "no 100 Continue, and nothing else"
        writer.write(b"x" * 100)
        writer.close()


async def test_a_body_that_was_under_way_when_the_queue_filled_is_taken_in() -> None:
    """It is looked at again when its body is here: then there is room."""
    async with front(head_timeout_s=5.0, body_grace_s=5.0) as proxy:
        one = await proxy.replicas.start("one", capacity=1)
        one.handler.act = one.handler.hold
        await proxy.serve(one, max_queued_requests=1)
        reader, writer = await proxy.connect()
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nab")
        asked = [asyncio.ensure_future(proxy.get("/"))]
        await until(lambda: len(one.handler.held) == 1, "one runs")
        asked.append(asyncio.ensure_future(proxy.get("/")))
        await until(lambda: proxy.routers.router(KEY).waiting == 1, "one waits")
        one.handler.act = None
        one.handler.let_go()
        assert [(await answer).status for answer in asked] == [200, 200]
        writer.write(b"cd")
        assert (await read_answer(reader)).endswith(b"abcd")


async def test_refusals_leave_turns_of_the_loop_to_those_who_are_served() -> None:
    async with full() as (proxy, _):
        pipes = [await proxy.connect() for _ in range(45)]
        counts = proxy.app._forward.counts
        seen = [counts.total]
        loop = asyncio.get_running_loop()
        ticking = True

        def tick() -> None:
            seen.append(counts.total)
            if ticking:
                loop.call_soon(tick)

        tick()
        asked = b"GET / HTTP/1.1\r\nhost: x\r\nx-request-id: %d-%d\r\n\r\n"
        for number, (_, writer) in enumerate(pipes):
            writer.write(asked % (number, 0) + (asked % (number, 1))[:30])
        await until(lambda: counts.total > 0, "all were read in one turn")
        for number, (_, writer) in enumerate(pipes):
            writer.write((asked % (number, 1))[30:] + asked % (number, 2))
        for number, (reader, _) in enumerate(pipes):
            for i in range(3):
                assert b"x-request-id: %d-%d\r\n" % (number, i) in await read_answer(reader)
        ticking = False
        in_a_turn = [later - earlier for earlier, later in pairwise(seen)]
        assert sum(in_a_turn) == 3 * len(pipes) and max(in_a_turn) <= 2 * REFUSALS_A_TURN


async def test_what_waits_for_a_turn_keeps_its_order_and_is_bounded() -> None:
    arrivals = Arrivals()
    taken: list[bytes] = []

    class Refused:
        def data_received(self, data: bytes) -> None:
            if arrivals.holding:
                arrivals.hold(self, data)
                return
            taken.append(data)
            arrivals.refused()

    connection = Refused()
    sent = [b"%d" % number for number in range(3 * REFUSALS_A_TURN)]
    for data in sent:
        connection.data_received(data)
    assert len(taken) == REFUSALS_A_TURN
    await until(lambda: len(taken) > REFUSALS_A_TURN, "another turn")
    for data in (more := [b"x", b"y"]):
        connection.data_received(data)
    await until(lambda: len(taken) == len(sent) + 2, "all had theirs")
    assert taken == sent + more
    await until(lambda: not arrivals.holding, "and nobody waits any more")
    taken.clear()
    large = [bytes([number]) * (HELD_BYTES // 8) for number in range(REFUSALS_A_TURN + 20)]
    for data in large:
        connection.data_received(data)
    assert len(taken) > REFUSALS_A_TURN, "nothing is held without end"
    await until(lambda: len(taken) == len(large), "all had theirs")
    assert taken == large


async def test_the_same_refusal_is_not_made_anew() -> None:
    async with full() as (proxy, _):
        router = proxy.routers.router(KEY)
        first = router.refusal()
        assert first is not None and router.refusal() is first
        router.update(router.route)
        assert router.refusal() is not first, "another route may say another status"
    assert proxy.routers.router(KEY).refusal() is None


async def test_many_lines_of_one_kind_become_a_count(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    budget = LineBudget(logging.getLogger("kind"), "things happened", "things")
    assert [budget.spend() for _ in range(LINES_PER_S + 7)] == [True] * LINES_PER_S + [False] * 7
    await until(lambda: "7 more things happened within a second" in caplog.text, "they are told together")
    assert budget.spend(), "and the next second has lines again"


async def test_many_requests_in_one_read_are_each_refused() -> None:
    async with full() as (proxy, _):
        reader, writer = await proxy.connect()
        writer.write(b"".join(b"GET / HTTP/1.1\r\nhost: x\r\nx-request-id: %d\r\n\r\n" % i for i in range(1000)))
        for number in range(1000):
            assert b"x-request-id: %d\r\n" % number in await asyncio.wait_for(read_answer(reader), 5)


async def test_a_pipeline_does_not_grow_with_each_answer() -> None:
    async with front(head_timeout_s=5.0) as proxy:
        one = await proxy.replicas.start("one", capacity=1)
        one.handler.act = one.handler.hold
        await proxy.serve(one)
        _, writer = await proxy.connect()
        asked = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx"
        writer.write(asked * 1000)
        await until(lambda: bool(one.handler.held), "the first one runs")
        [connection] = proxy.server._state.connections
        assert isinstance(connection, ProxyHttpProtocol)
        await until(lambda: len(connection.pipeline) == 999, "the others wait")
        for number in range(1, 4):
            writer.write(asked * 100)
            one.handler.let_go()
            await until(lambda: len(one.handler.started) == number + 1, "the next one runs")  # noqa: B023  # at once
            assert len(connection.pipeline) == 999 - number
