"""The queue is full: what comes is told so when its head is here, and its connection goes on where that is safe."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from serve_rt.observe.line_budget import LINES_PER_S, LineBudget
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
