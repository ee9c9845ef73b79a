"""From start to end: failing constructors, health, reconfiguration, drains, orphans."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import replace

from serve_rt.model.spec import DeploymentOptions
from serve_rt.pb import replica_pb2, stream_pb2
from tests.replica import deployments as d
from tests.replica.conftest import Marks, Start


def test_failing_constructor_reports_the_users_traceback_and_ends_with_1(start: Start) -> None:
    replica = start(d.Failing)

    async def watch() -> str:
        async with replica.agent() as agent:
            report = await agent.report(replica_pb2.REPLICA_PHASE_FAILED)
            return report.message

    message = asyncio.run(watch())
    assert "KeyError: 'missing'" in message and "in __init__" in message
    assert "constructing.py" not in message and "user_loop.py" not in message
    assert replica.wait_ended() == 1


def test_sys_exit_in_a_constructor_is_a_failure_like_any_other(start: Start) -> None:
    replica = start(d.Exiting)

    async def watch() -> str:
        async with replica.agent() as agent:
            report = await agent.report(replica_pb2.REPLICA_PHASE_FAILED)
            return report.message

    assert "SystemExit(not today)" in asyncio.run(watch())
    assert replica.wait_ended() == 1


def test_failing_constructor_ends_without_an_agent_too(start: Start) -> None:
    assert start(d.Failing).wait_ended() == 1


def test_wrong_python_is_named(start: Start) -> None:
    replica = start(d.hello, change_spec=lambda spec: replace(spec, python_version="3.9"))

    async def watch() -> str:
        async with replica.agent() as agent:
            report = await agent.report(replica_pb2.REPLICA_PHASE_FAILED)
            return report.message

    message = asyncio.run(watch())
    assert "deployed from Python 3.9" in message and "Traceback" not in message


def test_constructor_imports_are_reported(start: Start) -> None:
    replica = start(d.LazyImporter)

    async def watch() -> list[str]:
        async with replica.client() as client:
            return list(client.ready.constructor_imports)

    assert "plistlib" in asyncio.run(watch())


def test_ping_answers_while_user_code_blocks_its_loop(start: Start) -> None:
    replica = start(d.Async)

    async def talk() -> None:
        async with replica.client() as client, replica.agent() as agent:
            assert (await agent.ping()).user_loop_age_s == 0.0
            blocked = client.http(query=b"do=block&s=3")
            ages: list[float] = []
            async with asyncio.timeout(10):
                while not ages or ages[-1] < 1.5:
                    ages.append((await agent.ping()).user_loop_age_s)
                    await asyncio.sleep(0.05)
            assert (await agent.ping()).ongoing == 1
            health = await agent.stub.CheckHealth(replica_pb2.CheckHealthRequest())
            assert health.skipped, "a blocked loop says nothing about health"
            stacks = (await agent.stub.DumpStacks(replica_pb2.DumpStacksRequest())).text
            assert "do_block" in stacks
            assert (await blocked.whole()).body == b"unblocked"
            assert (await agent.ping()).ongoing == 0

    asyncio.run(talk())


def test_handler_that_holds_the_gil_silences_ping_and_survives(start: Start) -> None:
    replica = start(d.Async)

    async def talk() -> None:
        async with replica.client() as client, replica.agent() as agent:
            held = client.http(query=b"do=gil&s=1.5")
            await asyncio.sleep(0.2)
            assert not held.over.is_set()
            assert (await agent.ping()).phase == replica_pb2.REPLICA_PHASE_READY  # late, but it answers
            assert (await held.whole()).body == b"released"

    asyncio.run(talk())


def test_check_health_and_reconfigure(start: Start) -> None:
    replica = start(d.Async, options=DeploymentOptions(user_config_json='{"k": 1}', max_ongoing_requests=1))

    async def talk() -> None:
        async with replica.client() as client, replica.agent() as agent:
            check = replica_pb2.CheckHealthRequest()
            assert (await client.call("get_config").whole()).value == {"k": 1}
            assert (await agent.stub.CheckHealth(check)).healthy
            await client.call("set_sick", True).whole()
            sick = await agent.stub.CheckHealth(check)
            assert not sick.healthy and sick.message == "RuntimeError: I feel sick"

            change = replica_pb2.ReconfigureRequest(
                user_config_json="[2]", has_user_config=True, max_ongoing_requests=3
            )
            assert (await agent.stub.Reconfigure(change)).error == ""
            assert (await client.call("get_config").whole()).value == [2]
            sleeps = [client.call("sleep", 0.2) for _ in range(3)]
            assert [(await sleep.whole()).value for sleep in sleeps] == ["slept"] * 3
            bad = replica_pb2.ReconfigureRequest(user_config_json='"bad"', has_user_config=True)
            assert "ValueError: bad config" in (await agent.stub.Reconfigure(bad)).error

    asyncio.run(talk())


def test_limit_is_kept(start: Start) -> None:
    replica = start(d.Async, options=DeploymentOptions(max_ongoing_requests=2))

    async def talk() -> None:
        async with replica.client() as client:
            assert client.hello.capacity == 2
            answers = [client.call("sleep", 0.3) for _ in range(5)]
            await asyncio.gather(*(answer.whole() for answer in answers))
            assert sum(1 for answer in answers if answer.of(stream_pb2.Rejected)) == 3

    asyncio.run(talk())


def test_drain_finishes_what_runs_then_ends_with_0(start: Start, marks: Marks) -> None:
    replica = start(d.Async, str(marks))

    async def talk() -> None:
        async with replica.client() as client, replica.agent() as agent:
            running = client.call("sleep", 0.5)
            await asyncio.sleep(0.1)
            await agent.stub.Drain(replica_pb2.DrainRequest(timeout_s=10))
            await asyncio.wait_for(client.draining.wait(), 10)
            refused = await client.call("add", 1).whole()
            assert refused.of(stream_pb2.Rejected) or refused.parts == []
            assert (await running.whole()).value == "slept"

    asyncio.run(talk())
    assert replica.wait_ended() == 0
    assert marks.words == ["deleted"], "__del__ ran exactly once"


def test_sigterm_drains_and_cancels_what_outlives_the_time(start: Start, marks: Marks) -> None:
    replica = start(d.Async, str(marks), options=DeploymentOptions(graceful_shutdown_timeout_s=0.3))

    async def talk() -> None:
        async with replica.client() as client:
            client.http(query=b"do=hang")
            await marks.appears("hanging")
            replica.process.send_signal(signal.SIGTERM)
            await marks.appears("cancelled")

    asyncio.run(talk())
    assert replica.wait_ended() == 0
    assert marks.words[-2:] == ["cancelled", "deleted"]


def test_models_are_unloaded_before_the_instance_is_told(start: Start, marks: Marks) -> None:
    replica = start(d.Models, str(marks))

    async def talk() -> None:
        async with replica.client() as client:
            for name in ("a", "b"):
                assert (await client.call("load", name).whole()).value == name
            replica.process.send_signal(signal.SIGTERM)

    asyncio.run(talk())
    assert replica.wait_ended() == 0
    assert marks.words == ["unloaded a", "unloaded b", "deleted"]


def test_sigterm_while_constructing_ends_at_once(start: Start) -> None:
    replica = start(d.Slow, 60.0)

    async def watch() -> None:
        async with replica.agent() as agent:
            await agent.report(replica_pb2.REPLICA_PHASE_CONSTRUCTING)
            replica.process.send_signal(signal.SIGTERM)

    asyncio.run(watch())
    assert replica.wait_ended(5) == 0


def test_orphan_drains_and_ends(start: Start, marks: Marks) -> None:
    replica = start(d.Async, str(marks), change_start=lambda told: replace(told, orphan_timeout_s=0.5))
    assert replica.wait_ended(10) == 0
    assert "no agent for" in replica.log()


def test_taken_port_is_named(start: Start) -> None:
    first = start(d.hello)

    async def ready() -> None:
        async with first.client():
            pass

    asyncio.run(ready())
    second = start(d.hello, change_start=lambda told: replace(told, port=first.start.port))
    assert second.wait_ended() == 1
    assert f"127.0.0.1:{first.start.port}" in second.log()
