"""Requests that name a multiplexed model go where the model is."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from serve_rt.routing.pick import candidates_for_model
from tests.routing.replicas import Replica, Replicas, ask, replicas, until

pytestmark = pytest.mark.anyio


def test_holders_first_then_those_with_the_fewest() -> None:
    assert candidates_for_model([False, True], [9, 9]) == [1]
    assert candidates_for_model([False, False, False], [2, 0, 0]) == [1, 2]


async def three(them: Replicas, capacity: int = 10) -> tuple[Replica, Replica, Replica]:
    one, two, three = [await them.start(name, capacity=capacity) for name in ("one", "two", "three")]
    return one, two, three


async def test_a_replica_that_says_it_holds_the_model_gets_its_requests() -> None:
    async with replicas() as them:
        one, two, other = await three(them)
        two.service.set_models(("m", "n"))  # before anybody is connected
        router = them.client(one, two, other)
        await until(lambda: "3 idle" in repr(router), "links up")
        for number in range(6):
            await ask(router, f"m{number}", multiplexed_model_id="m")
        assert len(two.handler.started) == 6
        other.service.set_models(("m",))
        two.service.set_models(("n",))
        await ask(router, "plain")  # frames come in order: behind its answer the word has arrived
        await ask(router, "plain")
        await ask(router, "plain")
        seen = len(other.handler.started)
        for number in range(6):
            await ask(router, f"again{number}", multiplexed_model_id="m")
        assert len(other.handler.started) == seen + 6


async def test_a_burst_for_a_new_model_goes_to_one_replica_and_new_models_are_spread() -> None:
    async with replicas() as them:
        everyone = await three(them)
        router = them.client(*everyone)
        await until(lambda: "3 idle" in repr(router), "links up")
        models = [f"model{number}" for number in range(6)]
        jobs = [ask(router, f"{model}/{turn}", multiplexed_model_id=model) for turn in range(3) for model in models]
        await asyncio.gather(*jobs)
        served = [Counter(started.split("/")[0] for started in replica.handler.started) for replica in everyone]
        assert [len(models_here) for models_here in served] == [2, 2, 2]
        assert all(count == 3 for models_here in served for count in models_here.values())


async def test_busy_holders_are_helped_out() -> None:
    async with replicas() as them:
        one, two, other = await three(them, capacity=1)
        one.handler.act = one.handler.hold
        one.service.set_models(("m",))
        router = them.client(one, two, other)
        await until(lambda: "3 idle" in repr(router), "links up")
        held = asyncio.ensure_future(ask(router, "held", multiplexed_model_id="m"))
        await until(lambda: one.handler.started == ["held"], "the holder is busy")
        assert await ask(router, "helped", multiplexed_model_id="m") == b"helped"
        one.handler.let_go()
        assert await held == b"held"
