"""Cancels a request at each await of the router and of its exchange; nothing may stay counted or queued."""

from __future__ import annotations

import asyncio

import pytest

from tests.routing.replicas import ask, outgoing, replicas, table, until

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("steps", range(14))
async def test_cancelled_after_so_many_steps(steps: int) -> None:
    """The replica appears in the middle, so that both queued and reserved requests are met."""
    async with replicas() as them:
        one = await them.start("one", capacity=2)
        router = them.client()
        asked = [asyncio.ensure_future(ask(router, f"r{n}")) for n in range(5)]
        for step in range(steps):
            if step == 2:
                them.routers[0].update(table(one))
                if steps % 2:
                    await until(lambda: one.service.streams != set(), "connected")
            await asyncio.sleep(0)
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        them.routers[0].update(table(one))
        await until(lambda: router.waiting == 0 and router.reserved == 0, "nothing is counted")
        await until(lambda: one.service.ongoing == 0, "no slot is taken")
        assert await asyncio.gather(*(ask(router, f"n{n}") for n in range(20))) == [f"n{n}".encode() for n in range(20)]


async def test_a_slot_reserved_between_wake_up_and_cancel_is_given_back() -> None:
    async with replicas() as them:
        one = await them.start("one", capacity=1)
        one.handler.act = one.handler.hold
        router = them.client(one)
        first = asyncio.ensure_future(ask(router, "first"))
        await until(lambda: len(one.handler.held) == 1, "it runs")
        second = asyncio.ensure_future(router.send(outgoing("second")))
        await until(lambda: router.waiting == 1, "it waits")
        one.handler.let_go()
        await until(lambda: router.waiting == 0, "reserved, its task not resumed yet")
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        await first
        if not second.cancelled():
            second.result().cancel("test")
        one.handler.act = None
        one.handler.let_go()
        await until(lambda: router.reserved == 0 and one.service.ongoing == 0, "given back")
