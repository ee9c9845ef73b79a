"""Handle calls, as they are on the wire."""

from __future__ import annotations

import asyncio

import pytest

from serve_rt.errors import ServeException
from serve_rt.pb import stream_pb2 as pb
from tests.replica import deployments as d
from tests.replica.conftest import Marks, Start


def test_values_items_and_errors(start: Start) -> None:
    replica = start(d.Async)

    async def talk() -> None:
        async with replica.client() as client:
            assert (await client.call("add", 2, b=3).whole()).value == 5
            assert (await client.call("count", 4, stream=True).whole()).items == [0, 1, 2, 3]
            who = (await client.call("who").whole()).value
            assert (who["request_id"], who["thread"]) == ("r3", "user loop")

            custom = (await client.call("raise_custom").whole()).raised()
            assert type(custom).__name__ == "CustomError" and custom.args == ("a2",)
            missing = (await client.call("nope").whole()).raised()
            assert isinstance(missing, ServeException)
            assert "Tried to call a method 'nope' that does not exist. Available methods: [" in str(missing)
            unstreamed = (await client.call("count", 4).whole()).raised()
            with pytest.raises(TypeError, match="Method 'count' returned a generator"):
                raise unstreamed
            unasked = (await client.call("add", 1, stream=True).whole()).raised()
            with pytest.raises(TypeError, match="it did not return a generator"):
                raise unasked

    asyncio.run(talk())


def test_sync_methods_run_side_by_side_and_large_items_pass(start: Start) -> None:
    replica = start(d.Sync)

    async def talk() -> None:
        async with replica.client() as client:
            sleeps = [client.call("sleep", 0.3) for _ in range(4)]
            most = [(await sleep.whole()).value for sleep in sleeps]
            assert max(most) == 4
            items = (await client.call("big_items", 2_000_000, stream=True).whole()).items
            assert items == [b"a" * 2_000_000, b"b" * 3], "an item larger than any frame or window"
            exited = (await client.call("exits").whole()).error
            assert exited.kind == "UserError"
            assert (await client.call("sleep", 0.0).whole()).value >= 1

    asyncio.run(talk())


def test_large_arguments_come_in_pieces(start: Start) -> None:
    from serve_rt.handle import serialization

    replica = start(d.Async)

    async def talk() -> None:
        async with replica.client() as client:
            body = serialization.dumps((b"x" * 150_000, b"y" * 10), {})
            answer = client.open(call=pb.MethodCall(method="add"), body=body[:60_000], end=False)
            client.data(answer, body[60_000:120_000])
            client.data(answer, body[120_000:], end=True)
            assert (await answer.whole()).value == b"x" * 150_000 + b"y" * 10

    asyncio.run(talk())


def test_async_constructor_runs_on_the_user_loop(start: Start) -> None:
    replica = start(d.AsyncConstructor)

    async def talk() -> None:
        async with replica.client() as client:
            assert (await client.call("same_loop").whole()).value is True

    asyncio.run(talk())


def test_sync_generator_is_closed_when_the_caller_leaves(start: Start, marks: Marks) -> None:
    replica = start(d.Sync)

    async def talk() -> None:
        async with replica.client() as client:
            letters = client.call("letters", str(marks), stream=True)
            await letters.at_least(3, pb.Data)
            client.cancel(letters)
            await letters.whole()
            assert letters.of(pb.Ended)
            assert marks.words == ["closed"], "Ended comes when user code has really left"

    asyncio.run(talk())


def test_sys_exit_in_a_task_of_user_code_does_not_stop_the_user_loop(start: Start) -> None:
    replica = start(d.Async)

    async def talk() -> None:
        async with replica.client() as client:
            await client.call("exit_in_a_task").whole()
            assert (await client.call("add", 1).whole()).value == 2

    asyncio.run(talk())
    assert "tried to end the process" in replica.log()


def test_deadline_while_arguments_still_come(start: Start) -> None:
    replica = start(d.Async)

    async def talk() -> None:
        async with replica.client() as client, replica.agent() as agent:
            answer = client.open(call=pb.MethodCall(method="add"), body=b"half of", end=False, time_left_ms=100)
            assert (await answer.whole()).error.kind == "DeadlineExceededError"
            await agent.idle()

    asyncio.run(talk())
