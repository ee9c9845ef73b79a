"""Requests that belong to one replica: slots taken ahead, and broadcasts."""

from __future__ import annotations

import asyncio

import pytest

from serve_rt.errors import DeploymentUnavailableError, ReplicaDiedError, ReplicaUnavailableError
from serve_rt.pb import stream_pb2 as pb
from serve_rt.routing import Outgoing
from tests.routing.replicas import ask, outgoing, replicas, table, until

pytestmark = pytest.mark.anyio


def to_all(request_id: str = "all") -> Outgoing:
    call = pb.MethodCall(method="m", past_limit=True)
    return outgoing(request_id, http=None, call=call, pinned=True)


async def test_a_broadcast_waits_for_streams_that_are_being_dialed_and_passes_the_limit() -> None:
    async with replicas() as them:
        one, two = await them.start("one", capacity=1), await them.start("two", capacity=1)
        router = them.client(one, two)
        assert len(await router.send_everywhere(to_all())) == 2, "no stream was up yet"
        await until(lambda: one.handler.started == two.handler.started == ["all"], "both have it")
        one.handler.act = one.handler.hold
        two.handler.act = two.handler.hold
        held = [asyncio.ensure_future(ask(router, f"held{number}")) for number in range(2)]
        await until(lambda: len(one.handler.held) == len(two.handler.held) == 1, "both are full")
        queued = asyncio.ensure_future(ask(router, "queued"))
        await until(lambda: router.waiting == 1, "the limit holds for others")
        more = await router.send_everywhere(to_all("more"))
        await until(lambda: len(one.handler.held) == len(two.handler.held) == 2, "a broadcast runs beside it")
        assert one.service.ongoing == 2 and router.waiting == 1
        for replica in (one, two):
            replica.handler.act = None
            replica.handler.let_go()
        for exchange in more:
            assert await exchange.read() is not None
        assert await asyncio.gather(*held, queued) == [b"held0", b"held1", b"queued"]
        assert one.service.ongoing == two.service.ongoing == 0


async def test_a_pinned_request_goes_to_no_other_replica() -> None:
    async with replicas() as them:
        one, two = await them.start("one"), await them.start("two")
        one.handler.act = one.handler.hold
        two.handler.act = two.handler.hold
        router = them.client(one, two)
        sent = await router.send_everywhere(to_all())
        await until(lambda: len(one.handler.held) == len(two.handler.held) == 1, "both have it")
        await one.kill()
        with pytest.raises(ReplicaDiedError):
            await sent[0].read()
        assert sent[1].state.value != "done" and two.handler.started == ["all"]
        again = await router.send_everywhere(to_all("again"))
        with pytest.raises(ReplicaUnavailableError, match="one"):
            await again[0].read()
        two.handler.let_go()


async def test_a_draining_replica_refuses_a_broadcast() -> None:
    async with replicas() as them:
        one = await them.start("one")
        router = them.client(one)
        assert await ask(router) == b"r"
        one.service.slots.change(accepting=False)
        (refused,) = await router.send_everywhere(to_all())
        with pytest.raises(ReplicaUnavailableError):
            await refused.read()


async def test_nobody_to_broadcast_to() -> None:
    async with replicas() as them:
        router = them.client()
        with pytest.raises(DeploymentUnavailableError, match="has no replicas"):
            await router.send_everywhere(to_all())
        them.routers[0].update(table(message="broken"))


async def test_a_reservation_moves_on_until_it_was_accepted() -> None:
    async with replicas() as them:
        one = await them.start("one", capacity=1)
        one.handler.act = one.handler.hold
        first, second = them.client(one), them.client(one)
        held = asyncio.ensure_future(ask(first, "held"))
        await until(lambda: len(one.handler.held) == 1, "full")
        reservation = outgoing("slot", http=None, call=pb.MethodCall(reserve=True), end=False)
        exchange = await second.send(reservation)  # this caller does not know yet that there is no room
        started = asyncio.ensure_future(exchange.started())
        await until(lambda: second.waiting == 1, "rejected, and back in the queue")
        one.handler.let_go()
        await asyncio.wait_for(started, 5)
        assert await held == b"held" and exchange.replica_id == "app#D#one"
        exchange.cancel("not used")
        await until(lambda: one.service.ongoing == 0, "given back")
