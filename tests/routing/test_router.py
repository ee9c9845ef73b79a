"""Routers against real replicas over loopback: the queue, the choice, retries, and what becomes of broken streams."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from serve_rt.config import protections
from serve_rt.errors import (
    BackPressureError,
    DeadlineExceededError,
    DeploymentUnavailableError,
    Outcome,
    QueueTimeoutError,
    ReplicaDiedError,
    RequestCancelledError,
    UserCodeError,
)
from serve_rt.model.ids import ReplicaId
from serve_rt.model.routes import Availability, ReplicaRoute
from serve_rt.pb import stream_pb2 as pb
from serve_rt.routing import link
from serve_rt.transport import client
from serve_rt.transport.server import ServerRequest
from tests.routing.replicas import TOKEN, answer, ask, outgoing, replicas, table, until

pytestmark = pytest.mark.anyio


async def test_requests_are_spread_and_answered() -> None:
    async with replicas() as them:
        one, two = await them.start("one"), await them.start("two")
        router = them.client(one, two)
        await until(lambda: "2 idle" in repr(router), "both links up")
        # All at once: one after another, a replica that the machine made slow once is asked no more for a while
        # (test_decisions.py has the exact rule).
        answers = await asyncio.gather(*(ask(router, f"r{n}") for n in range(20)))
        assert answers == [f"r{n}".encode() for n in range(20)]
        assert min(len(one.handler.started), len(two.handler.started)) >= 2
        assert router.reserved == 0


async def test_a_request_waits_for_the_first_replica() -> None:
    async with replicas() as them:
        router = them.client()
        asked = asyncio.ensure_future(ask(router))
        await until(lambda: router.waiting == 1, "queued")
        them.routers[0].update(table(await them.start("late")))
        assert await asked == b"r" and router.waiting == 0


async def test_no_hope_is_said_at_once_and_to_those_who_wait() -> None:
    async with replicas() as them:
        router = them.client()
        waiting = asyncio.ensure_future(ask(router))
        await until(lambda: router.waiting == 1, "queued")
        them.routers[0].update(table(availability=Availability.FAILED, message="constructor raised"))
        with pytest.raises(DeploymentUnavailableError, match="constructor raised"):
            await waiting
        with pytest.raises(DeploymentUnavailableError):
            await ask(router)
        router.update(None)
        with pytest.raises(DeploymentUnavailableError, match="deleted"):
            await ask(router)


async def test_the_queue_is_bounded_in_order_and_times_out() -> None:
    async with replicas() as them:
        one = await them.start("one", capacity=1)
        one.handler.act = one.handler.hold
        router = them.client(one, max_queued_requests=2, backpressure_status=429)
        await until(lambda: "1 idle" in repr(router), "link up")
        asked = [asyncio.ensure_future(ask(router, f"r{n}")) for n in range(3)]
        await until(lambda: router.waiting == 2, "two wait")
        with pytest.raises(BackPressureError) as refused:
            await ask(router)
        assert refused.value.status_code == 429
        one.handler.act = None
        one.handler.let_go()
        assert await asyncio.gather(*asked) == [b"r0", b"r1", b"r2"]
        assert one.handler.started == ["r0", "r1", "r2"], "in order of arrival"
        one.handler.act = one.handler.hold
        busy = asyncio.ensure_future(ask(router, "busy"))
        await until(lambda: len(one.handler.held) == 1, "the slot is taken")
        with pytest.raises(QueueTimeoutError):
            await ask(router, queue_timeout_s=0.05)
        one.handler.let_go()
        await busy


async def test_two_callers_share_two_replicas_of_one_slot() -> None:
    async with replicas() as them:
        pair = [await them.start("one", capacity=1), await them.start("two", capacity=1)]
        highest = 0

        def slowly(request: ServerRequest) -> None:
            nonlocal highest
            highest = max(highest, *(replica.service.ongoing for replica in pair))
            asyncio.get_running_loop().call_later(0.005, finish, request)

        def finish(request: ServerRequest) -> None:
            request.head(200, (), end=True)
            request.finished()

        for replica in pair:
            replica.handler.act = slowly
        routers = [them.client(*pair), them.client(*pair)]
        answered = [0, 0]

        async def many(which: int) -> None:
            while sum(answered) < 200:
                await ask(routers[which])
                answered[which] += 1

        await asyncio.gather(*(many(which) for which in (0, 1) for _ in range(16)))
        rejected = sum(router.counters()["rejected_received"] for router in routers)
        assert highest == 1, "the replica's count is the authority"
        assert 0.4 <= answered[0] / sum(answered) <= 0.6, answered
        assert rejected <= 2 * sum(answered)
        assert [router.reserved for router in routers] == [0, 0]


async def test_a_dead_replica_is_dropped_at_once_and_safe_work_goes_elsewhere() -> None:
    async with replicas() as them:
        dying, other = await them.start("dying"), await them.start("other")
        dying.handler.act = dying.handler.hold
        router = them.client(dying, other)
        await until(lambda: "2 idle" in repr(router), "both links up")
        asked = [asyncio.ensure_future(ask(router, f"r{n}", retry_safe=True)) for n in range(6)]
        await until(lambda: len(dying.handler.held) == 3, "half of them are there")
        await dying.kill()
        assert sorted(await asyncio.gather(*asked)) == [f"r{n}".encode() for n in range(6)]
        assert await ask(router) == b"r"
        assert len(set(other.handler.started)) == 7


async def test_unknown_counts_as_started() -> None:
    async with replicas() as them:
        dying, other = await them.start("dying"), await them.start("other")
        dying.handler.act = dying.handler.hold
        router = them.client(dying)
        asked = asyncio.ensure_future(ask(router, retry_safe=False))
        await until(lambda: len(dying.handler.held) == 1, "it runs")
        them.routers[0].update(table(dying, other))
        await until(lambda: "1 idle" in repr(router), "the other is there")
        await dying.kill()
        with pytest.raises(ReplicaDiedError) as died:
            await asked
        assert died.value.outcome in (Outcome.UNKNOWN, Outcome.STARTED)
        assert other.handler.started == [], "it must not run twice"


async def test_with_the_old_rule_it_runs_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control of the test above."""
    monkeypatch.setattr("serve_rt.routing.retry.enabled", lambda p: p is not protections.Protection.RETRY_RULE)
    async with replicas() as them:
        dying, other = await them.start("dying"), await them.start("other")

        def vanish(request: ServerRequest) -> None:
            asyncio.ensure_future(dying.kill())  # noqa: RUF006  # the replica owns it

        dying.handler.act = vanish
        router = them.client(dying, other)
        await until(lambda: "2 idle" in repr(router), "both links up")
        asked = [asyncio.ensure_future(ask(router, f"r{n}")) for n in range(2)]
        done = await asyncio.gather(*asked, return_exceptions=True)
        assert set(dying.handler.started) & set(other.handler.started), done


async def test_without_local_ejection_requests_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_rt.routing.link.enabled", lambda p: p is not protections.Protection.LOCAL_EJECT)
    async with replicas() as them:
        dying, other = await them.start("dying"), await them.start("other")
        router = them.client(dying, other)
        await until(lambda: "2 idle" in repr(router), "both links up")
        await dying.kill()
        outcomes = await asyncio.gather(*(ask(router) for _ in range(20)), return_exceptions=True)
        assert any(isinstance(outcome, Exception) for outcome in outcomes)


async def test_never_again_after_the_first_byte() -> None:
    async with replicas() as them:
        dying, other = await them.start("dying"), await them.start("other")

        def half(request: ServerRequest) -> None:
            request.head(200, ())
            request.data(b"half")

        dying.handler.act = half
        router = them.client(dying)
        exchange = await router.send(outgoing(retry_safe=True))
        assert isinstance(await exchange.read(), pb.Head)
        them.routers[0].update(table(dying, other))
        await dying.kill()
        with pytest.raises(ReplicaDiedError):
            await answer(exchange)
        assert other.handler.started == []


async def test_a_deadline_ends_waiting_and_running_and_expired_work_never_starts() -> None:
    async with replicas() as them:
        one = await them.start("one", capacity=1)
        one.handler.act = one.handler.hold
        router = them.client(one)
        with pytest.raises(DeadlineExceededError):
            await ask(router, deadline=time.monotonic() - 1)
        running = asyncio.ensure_future(ask(router, "running", deadline=time.monotonic() + 0.2))
        await until(lambda: len(one.handler.held) == 1, "it runs")
        with pytest.raises(DeadlineExceededError):
            await ask(router, "waiting", deadline=time.monotonic() + 0.05)
        with pytest.raises(DeadlineExceededError):
            await running
        await until(lambda: one.service.ongoing == 0 and router.reserved == 0, "the slot is free")
        assert one.handler.started == ["running"] and one.handler.cancelled == ["running"]


async def test_cancel_reaches_the_replica() -> None:
    async with replicas() as them:
        one = await them.start("one")
        one.handler.act = one.handler.hold
        router = them.client(one)
        exchange = await router.send(outgoing())
        await until(lambda: len(one.handler.held) == 1, "it runs")
        exchange.cancel("enough")
        with pytest.raises(RequestCancelledError):
            await exchange.read()
        await until(lambda: router.reserved == 0 and one.service.ongoing == 0, "released")


async def test_user_errors_come_back_as_such() -> None:
    async with replicas() as them:
        one = await them.start("one")

        def raise_it(request: ServerRequest) -> None:
            request.fail(Outcome.STARTED, "UserError", "ValueError: no", pickled=b"p", traceback="tb")
            request.finished()

        one.handler.act = raise_it
        router = them.client(one)
        with pytest.raises(UserCodeError) as raised:
            await ask(router)
        assert (raised.value.pickled, raised.value.traceback) == (b"p", "tb")


async def test_large_bodies_both_ways() -> None:
    async with replicas() as them:
        one = await them.start("one")

        async def echo_stream(request: ServerRequest) -> None:
            request.head(200, ())
            while (part := await request.receive()) is not None:
                await request.writable()
                request.data(part.payload, end=part.end)
            request.finished()

        running: list[asyncio.Task[None]] = []
        one.handler.act = lambda request: running.append(asyncio.ensure_future(echo_stream(request)))
        router = them.client(one)
        body = bytes(range(256)) * 20_000
        assert await ask(router, body=body) == body
        exchange = await router.send(outgoing(body=body[:1000], end=False))
        reading = asyncio.ensure_future(answer(exchange))
        for start in range(1000, len(body), 100_000):
            await exchange.send_ready()
            exchange.send(body[start : start + 100_000], end=start + 100_000 >= len(body))
        assert await reading == body
        await asyncio.gather(*running)


async def test_a_stale_route_never_reaches_a_stranger() -> None:
    async with replicas() as them:
        stranger = await them.start("stranger")
        router = them.client()
        route = ReplicaRoute(ReplicaId("app#D#gone"), 3, stranger.route.address, stranger.route.node_id)
        them.routers[0].update(table(type(stranger)(stranger.service, stranger.server, 0, stranger.handler, route)))
        with pytest.raises(QueueTimeoutError):
            await ask(router, queue_timeout_s=0.3)
        assert stranger.handler.started == []


async def test_a_removed_route_finishes_what_runs() -> None:
    async with replicas() as them:
        old, new = await them.start("old"), await them.start("new")
        old.handler.act = old.handler.hold
        router = them.client(old)
        asked = asyncio.ensure_future(ask(router, "slow"))
        await until(lambda: len(old.handler.held) == 1, "it runs")
        them.routers[0].update(table(new))
        assert await ask(router, "next") == b"next" and new.handler.started == ["next"]
        old.handler.let_go()
        assert await asked == b"slow"
        await until(lambda: not old.service.streams, "and then the stream is closed")


async def test_a_replica_that_came_back_is_dialed_again() -> None:
    async with replicas() as them:
        one = await them.start("one")
        router = them.client(one)
        await ask(router)
        for stream in tuple(one.service.streams):
            stream.lost("test")
        await until(lambda: "0 idle" in repr(router), "the router has noticed")
        assert await ask(router, queue_timeout_s=5.0) == b"r"


async def test_safe_work_returns_to_its_only_replica_and_blocks_nobody() -> None:
    """The stream broke, the process lives: the retry goes back over the new stream instead of waiting for another."""
    async with replicas() as them:
        one = await them.start("one")
        one.handler.act = one.handler.hold
        router = them.client(one)
        asked = asyncio.ensure_future(ask(router, "first", retry_safe=True))
        await until(lambda: len(one.handler.held) == 1, "it runs")
        one.handler.act = None
        for stream in tuple(one.service.streams):
            stream.lost("test")
        await until(lambda: router.waiting == 1, "back in the line")
        answers = await asyncio.wait_for(asyncio.gather(asked, ask(router, "behind")), 5)
        assert list(answers) == [b"first", b"behind"]


async def test_a_link_withdrawn_before_its_first_step_is_forgotten() -> None:
    async with replicas() as them:
        one = await them.start("one")
        router = them.client(one)
        them.routers[0].update(table())
        await until(lambda: not router._replicas._retired, "the link is gone")


async def test_draining_rejects_and_waits() -> None:
    async with replicas() as them:
        old, other = await them.start("old"), await them.start("other")
        old.handler.act = old.handler.hold
        router = them.client(old)
        asked = asyncio.ensure_future(ask(router, "slow"))
        await until(lambda: len(old.handler.held) == 1, "it runs")
        draining = asyncio.ensure_future(old.service.drain(5.0))
        them.routers[0].update(table(old, other))
        assert [await ask(router) for _ in range(4)] == [b"r"] * 4
        assert len(other.handler.started) == 4
        old.handler.let_go()
        assert await asked == b"slow" and await draining


def test_the_token_is_not_shown() -> None:
    assert "t" * 32 not in repr(TOKEN)


async def test_an_error_nobody_expects_does_not_end_a_link(monkeypatch: pytest.MonkeyPatch) -> None:
    real, failures = client.dial, [RuntimeError("no file descriptors left"), OSError("odd")]

    async def dial(*args: Any) -> None:
        if failures:
            raise failures.pop()
        await real(*args)

    monkeypatch.setattr(link, "dial", dial)
    async with replicas() as them:
        router = them.client(await them.start("one"))
        assert await asyncio.wait_for(ask(router), 10) == b"r" and not failures
