"""Policies of the users' own: their process, what becomes of their answers, and what happens when they fail."""

from __future__ import annotations

import asyncio
import io
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from serve_rt.api.payload import Payload, pack
from serve_rt.autoscaling_policy import default_autoscaling_policy
from serve_rt.config.autoscaling import context_of
from serve_rt.config.options import AutoscalingConfig, AutoscalingPolicy
from serve_rt.controller import policy_host
from serve_rt.controller.autoscale import Demand, Timer, by_policy, without_policy
from serve_rt.controller.policy_host import PolicyError, PolicyHost
from serve_rt.model.ids import AppName, DeploymentKey, DeploymentName
from serve_rt.model.spec import AutoscalingOptions, PolicySpec
from tests.controller.policies_of_users import ByGauge
from tests.controller.world import World, application, deployment_spec, node_record

HERE = "tests.controller.policies_of_users"
OPTIONS = AutoscalingOptions(min_replicas=0, max_replicas=8, upscale_delay_s=0.0, downscale_delay_s=0.0)


def context(total: float = 8.0, name: str = "d", **values: Any) -> dict[str, Any]:
    """As the leader sends it."""
    world = World()
    world.add_node(node_record("a"))
    policy = PolicySpec("any:policy")
    spec = deployment_spec(name, autoscaling=AutoscalingOptions(max_replicas=8, policy=policy))
    world.deploy(application("x", spec))
    world.settle()
    (question,) = world.scaling.questions(world.cluster, world.now, 5000.0)
    return {**question.contexts[0], "total_num_requests": total, **values}


@asynccontextmanager
async def host(
    name: str = "", kwargs_json: str = "{}", payload: bytes = b"", code: bytes = b""
) -> AsyncIterator[PolicyHost]:
    made = PolicyHost(PolicySpec(name, kwargs_json), payload, code)
    try:
        yield made
    finally:
        await made.close()


# --- the process --------------------------------------------------------------------------------------------------


async def test_a_function_by_its_name_keeps_its_state() -> None:
    async with host(f"{HERE}:by_queue", '{"per_replica": 2}') as one:
        first = await one.ask([context()], application=False)
        assert (first.replicas, first.states) == ((4.0,), ('{"asked": 1}',))
        again = await one.ask([context(policy_state={"asked": 1})], application=False)
        assert again.states == ('{"asked": 2}',)


async def test_a_class_by_value_sees_what_replicas_report() -> None:
    ctx = context(running_replicas=["x#d#a"], aggregated_metrics={"gpu": {"x#d#a": 6.0}})
    async with host("x:ByGauge", '{"name": "gpu", "each": 2}', pack(Payload(ByGauge))) as one:
        assert (await one.ask([ctx], application=False)).replicas == (3.0,)


async def test_a_policy_may_have_tasks_of_its_own_and_may_be_async() -> None:
    async with host(f"{HERE}:ByTask") as one:
        answers = {(await one.ask([context()], application=False)).replicas}
        while (7.0,) not in answers:
            await asyncio.sleep(0.02)
            answers.add((await one.ask([context()], application=False)).replicas)
        assert answers == {(1.0,), (7.0,)}
    async with host(f"{HERE}:waiting") as one:
        assert (await one.ask([context()], application=False)).replicas == (6.0,)


async def test_code_comes_as_a_zip_and_leaves_no_file() -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("users_own_policy.py", "def policy(ctx):\n    return 5, {}\n")
    async with host("users_own_policy:policy", code=packed.getvalue()) as one:
        assert (await one.ask([context()], application=False)).replicas == (5.0,)


async def test_one_policy_for_a_whole_application() -> None:
    contexts = [context(name=name) for name in ("first", "second", "third")]
    async with host(f"{HERE}:of_application") as one:
        assert (await one.ask(contexts, application=True)).replicas == (3.0, 2.0, None)


async def test_whatever_a_policy_does_the_next_question_finds_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_host, "ANSWER_S", 1.0)
    async with host(f"{HERE}:moody") as one:
        for total, words in ((1.0, "no idea"), (2.0, "did not answer"), (3.0, "ended"), (4.0, "'many'")):
            with pytest.raises(PolicyError, match=words):
                await one.ask([context(total)], application=False)
            assert (await one.ask([context()], application=False)).replicas == (2.0,)


@pytest.mark.parametrize("lie", range(4))
async def test_what_a_policy_forges_is_an_error_of_the_policy(lie: int) -> None:
    """The leader reads numbers and dicts, or nothing."""
    async with host(f"{HERE}:forger") as one:
        with pytest.raises(PolicyError):
            await one.ask([context(float(lie))], application=False)


async def test_a_policy_that_is_not_there_is_named() -> None:
    async with host("no_such_module:policy") as one:
        with pytest.raises(PolicyError, match="no_such_module"):
            await one.ask([context()], application=False)


async def test_it_ends_with_its_leader_even_when_it_hangs() -> None:
    async with host(f"{HERE}:moody") as one:
        await one.ask([context()], application=False)
        process = one._process
        assert process is not None and process.stdin is not None
        asking = asyncio.create_task(one.ask([context(2.0)], application=False), name="a question without an answer")
        await asyncio.sleep(0.2)
        process.stdin.close()
        async with asyncio.timeout(10):
            await process.wait()
        with pytest.raises(PolicyError):
            await asking


# --- what becomes of its answers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wish", "running", "target", "expected"),
    [(3.2, 2, 2, 4), (0.0, 5, 5, 1), (0.0, 1, 1, 0), (99.0, 2, 2, 8), (2.0, 0, 0, 2), (2.0, 4, 6, 4)],
)
def test_a_wish_goes_through_bounds_and_rules(wish: float, running: int, target: int, expected: int) -> None:
    idle = Demand(0.0, 0.0, 0.0, True)
    assert by_policy(OPTIONS, wish, idle, running, target, Timer(), 0.0).target == expected


def test_a_wish_for_less_waits_until_everybody_was_heard() -> None:
    decision = by_policy(OPTIONS, 1.0, Demand(0.0, 0.0, 0.0, False), 4, 4, Timer(-1, -900.0), 0.0)
    assert (decision.target, decision.paused) == (4, True)


def test_a_silent_policy_leaves_all_as_it_is_but_no_request_waiting_at_none() -> None:
    busy = Demand(9.0, 9.0, 9.0, True)
    assert without_policy(OPTIONS, "it raised", busy, 2, 2, Timer()).target == 2
    assert without_policy(OPTIONS, "it raised", busy, 0, 0, Timer()).target == 1


def test_state_survives_the_leader_with_few_writes() -> None:
    world, key = World(), DeploymentKey(AppName("x"), DeploymentName("d"))
    world.add_node(node_record("a"))
    options = AutoscalingOptions(max_replicas=8, upscale_delay_s=0.0, look_back_period_s=1.0, policy=PolicySpec("m:p"))
    world.deploy(application("x", deployment_spec("d", autoscaling=options)))
    world.settle()
    before = world.revision
    for second in range(60):
        world.now += 1.0
        world.scaling.wishes.answered(key, 1.0, f'{{"n": {second}}}', world.now)
        if world.look() or world.scaling.notes:
            world.settle()
    assert 4 <= world.revision - before <= 6
    world.new_leader()
    world.look()
    (question,) = world.scaling.questions(world.cluster, world.now, 0.0)
    assert question.contexts[0]["policy_state"]["n"] >= 49
    world.scaling.wishes.answered(key, 3.0, "{}", world.now)
    world.settle()
    assert len(list(world.members("x"))) == 3


def test_the_usual_policy_is_recognised_and_callable() -> None:
    for name in ("ray.serve.autoscaling_policy:default_autoscaling_policy", default_autoscaling_policy):
        assert AutoscalingPolicy(name).spec() is None
    assert AutoscalingConfig(policy=AutoscalingPolicy("mine:policy")).options().policy == PolicySpec("mine:policy")
    number, _ = default_autoscaling_policy(context_of(context(8.0)))
    assert number == 4.0
    for wrong in ("nothing", 7, ""):
        with pytest.raises(ValueError, match="policy_function"):
            AutoscalingPolicy(wrong)
    with pytest.raises(ValueError, match="JSON"):
        AutoscalingPolicy("a:b", {"x": object()})
