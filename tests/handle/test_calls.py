"""Handles, responses and streams against a fake router in the same process."""

from __future__ import annotations

import asyncio
import pickle
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from serve_rt.context import RequestContext, current_request
from serve_rt.errors import DeploymentUnavailableError, RequestCancelledError, ServeException
from serve_rt.handle import DeploymentHandle, DeploymentResponseGenerator
from serve_rt.handle.children import cancel_children
from serve_rt.handle.serialization import RemoteTraceback, RemoteUserError
from tests.handle.fakes import KEY, FakeCluster, Method, cluster, table


async def echo(*args: Any, **kwargs: Any) -> Any:
    return (args, kwargs) if kwargs or len(args) != 1 else args[0]


async def fail(message: str) -> None:
    raise KeyError(message)


async def never() -> None:
    await asyncio.sleep(1000)


async def count(limit: int) -> AsyncIterator[int]:
    for number in range(limit):
        yield number


class OddError(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")
        self.two = two


async def odd() -> None:
    raise OddError(1, 2)


async def lost() -> None:
    error = OddError(3, 4)
    error.lock = threading.Lock()  # type: ignore[attr-defined]  # what cannot be pickled
    raise error


METHODS: dict[str, Method] = {"__call__": echo, "fail": fail, "never": never, "count": count, "odd": odd, "lost": lost}


def handle_of(fake: FakeCluster) -> DeploymentHandle[Any]:
    return DeploymentHandle("echo", "app", runtime=fake.runtime)


def test_result_from_a_thread_and_await_from_several_loops() -> None:
    with cluster(METHODS) as fake:
        handle = handle_of(fake)
        assert handle.remote(1).result() == 1
        response = handle.remote({"a": [2]}, b=3)

        async def twice() -> Any:
            first = await response
            assert await response is first
            return first

        assert asyncio.run(twice()) == asyncio.run(twice()) == (({"a": [2]},), {"b": 3})
        assert response.result() == (({"a": [2]},), {"b": 3})


def test_a_response_goes_on_as_an_argument_unopened() -> None:
    with cluster(METHODS) as fake:
        handle = handle_of(fake)
        slow = handle.remote([1, 2, 3])
        assert handle.remote(handle.remote(slow), again=slow).result(timeout_s=5) == (
            ([1, 2, 3],),
            {"again": [1, 2, 3]},
        )


def test_a_failed_argument_fails_the_call_with_the_users_error() -> None:
    with cluster(METHODS) as fake:
        handle = handle_of(fake)
        with pytest.raises(KeyError, match="upstream"):
            handle.remote(handle.fail.remote("upstream")).result(timeout_s=5)


def test_user_errors_come_back_as_their_own_type_with_the_remote_traceback() -> None:
    with cluster(METHODS) as fake:
        response = handle_of(fake).fail.remote("what?")
        for _ in range(2):
            with pytest.raises(KeyError, match="what") as raised:
                response.result(timeout_s=5)
            assert isinstance(raised.value.__cause__, RemoteTraceback)
            assert "in fail" in str(raised.value.__cause__)


def test_an_error_that_cannot_be_rebuilt_still_says_what_it_was() -> None:
    with cluster(METHODS) as fake, pytest.raises(RemoteUserError, match="OddError: 3 and 4"):
        handle_of(fake).lost.remote().result(timeout_s=5)


def test_an_error_whose_init_takes_other_arguments_than_it_hands_on_keeps_its_type() -> None:
    with cluster(METHODS) as fake, pytest.raises(OddError, match="^1 and 2$") as raised:
        handle_of(fake).odd.remote().result(timeout_s=5)
    assert raised.value.two == 2 and raised.value.args == ("1 and 2",)
    assert isinstance(raised.value.__cause__, RemoteTraceback)


def test_result_refuses_to_block_an_event_loop() -> None:
    with cluster(METHODS) as fake:
        response = handle_of(fake).remote(1)

        async def main() -> None:
            with pytest.raises(RuntimeError, match="Use `await response` instead"):
                response.result()
            assert await response == 1

        asyncio.run(main())


def test_timeout_leaves_the_call_alone() -> None:
    with cluster(METHODS) as fake:
        response = handle_of(fake).never.remote()
        with pytest.raises(TimeoutError):
            response.result(timeout_s=0.05)
        assert not fake.router.exchanges[0].cancelled_for
        response.cancel()


def test_cancel_reaches_the_replica_and_the_waiters() -> None:
    with cluster(METHODS) as fake:
        response = handle_of(fake).never.remote()
        _until(lambda: bool(fake.router.exchanges))
        response.cancel()
        with pytest.raises(RequestCancelledError):
            response.result(timeout_s=5)
        assert response.cancelled()
        _until(lambda: bool(fake.router.exchanges[0].cancelled_for))


def test_one_waiter_that_gives_up_does_not_cancel_the_others() -> None:
    with cluster(METHODS) as fake:
        release = asyncio.run_coroutine_threadsafe(_event(), fake.loop).result()

        async def wait() -> str:
            await release.wait()
            return "here"

        fake.router.methods["wait"] = wait
        response = handle_of(fake).wait.remote()

        async def main() -> None:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(_await(response), 0.05)
            fake.loop.call_soon_threadsafe(release.set)
            assert await response == "here"

        asyncio.run(main())


async def _event() -> asyncio.Event:
    return asyncio.Event()


async def _await(response: Any) -> Any:
    return await response


def test_a_cancelled_request_takes_its_child_calls_along() -> None:
    with cluster(METHODS) as fake:
        parent = RequestContext(request_id="parent-1", deadline=12345.0)

        async def user_code() -> None:
            current_request.set(parent)
            response = handle_of(fake).never.remote()
            assert response.request_id == "parent-1"
            await response

        async def main() -> None:
            task = asyncio.ensure_future(user_code())
            await asyncio.to_thread(_until, lambda: bool(fake.router.exchanges))
            assert fake.router.sent[0].deadline == 12345.0
            parent.cancelled.set()
            cancel_children(parent)
            with pytest.raises(RequestCancelledError):
                await task

        asyncio.run(main())
        _until(lambda: bool(fake.router.exchanges[0].cancelled_for))


def test_streams_in_threads_and_in_loops() -> None:
    with cluster(METHODS) as fake:
        handle: Any = handle_of(fake).count.options(stream=True)
        assert list(handle.remote(300)) == list(range(300))

        async def main() -> list[int]:
            return [item async for item in handle.remote(300)]

        assert asyncio.run(main()) == list(range(300))


def test_a_slow_reader_slows_the_stream_down() -> None:
    with cluster(METHODS) as fake:
        produced = 0

        async def numbers() -> AsyncIterator[int]:
            nonlocal produced
            while True:
                produced += 1
                yield produced

        fake.router.methods["numbers"] = numbers
        stream: Any = handle_of(fake).numbers.options(stream=True).remote()
        assert next(stream) == 1
        time.sleep(0.1)
        assert produced < 100, "read ahead without a limit"
        assert [next(stream) for _ in range(500)][-1] == 501
        stream.cancel()


def test_dropping_a_stream_cancels_it() -> None:
    with cluster(METHODS) as fake:
        stream: Any = handle_of(fake).count.options(stream=True).remote(1_000_000)
        assert next(stream) == 0
        del stream
        _until(lambda: bool(fake.router.exchanges[0].cancelled_for))


def test_a_generator_is_neither_awaited_nor_passed_on() -> None:
    with cluster(METHODS) as fake:
        stream: Any = handle_of(fake).count.options(stream=True).remote(1)
        assert isinstance(stream, DeploymentResponseGenerator)
        with pytest.raises(TypeError, match="cannot be awaited"):
            asyncio.run(_await(stream))
        with pytest.raises(TypeError, match="result"):
            stream.result()
        with pytest.raises(RuntimeError, match="cannot be passed to downstream"):
            handle_of(fake).remote(stream)


def test_arguments_are_packed_at_the_time_of_the_call() -> None:
    with cluster(METHODS) as fake:
        given = [1]
        response = handle_of(fake).remote(given)
        given.append(2)
        assert response.result(timeout_s=5) == [1]


def test_what_cannot_be_pickled_is_named() -> None:
    with cluster(METHODS) as fake:
        with pytest.raises(TypeError, match="Could not serialize argument 'lock' of type lock"):
            handle_of(fake).remote(1, lock=threading.Lock())
        with pytest.raises(ServeException, match="not serializable"):
            handle_of(fake).remote([handle_of(fake).remote(1)])


def test_lambdas_and_local_classes_travel_by_value() -> None:
    class Local:
        value = 4

    with cluster(METHODS) as fake:
        assert handle_of(fake).remote(lambda: 3).result()() == 3
        assert handle_of(fake).remote(Local()).result().value == 4


def test_a_handle_travels_as_its_name() -> None:
    handle = DeploymentHandle[Any]("echo", "app").predict.options(multiplexed_model_id="m")
    copied = pickle.loads(pickle.dumps(handle))
    assert copied == handle and copied.app_name == "app" and repr(copied) == "DeploymentHandle(deployment='echo')"


def test_an_app_that_is_gone_says_so_soon() -> None:
    with cluster(METHODS) as fake:
        assert handle_of(fake).remote(1).result() == 1
        assert fake.routes is not None
        fake.routes.show(table(revision=2))
        start = time.monotonic()
        with pytest.raises(DeploymentUnavailableError, match="does not exist"):
            handle_of(fake).remote(2).result(timeout_s=5)
        assert time.monotonic() - start < 2


def test_an_app_that_is_being_deployed_is_waited_for() -> None:
    with cluster(METHODS, table(revision=1)) as fake:
        response = handle_of(fake).remote(1)
        _until(lambda: fake.routes is not None)
        assert fake.routes is not None
        fake.routes.show(table(KEY, revision=2))
        assert response.result(timeout_s=5) == 1


def test_calls_from_many_threads() -> None:
    with cluster(METHODS) as fake:
        handle = handle_of(fake)
        answers: list[int] = []

        def work(base: int) -> None:
            answers.extend(handle.remote(base + step).result(timeout_s=10) for step in range(50))

        threads = [threading.Thread(target=work, args=(100 * index,)) for index in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(answers) == sorted(100 * index + step for index in range(8) for step in range(50))


def test_options_are_checked() -> None:
    handle = DeploymentHandle[Any]("echo", "app")
    with pytest.raises(ValueError, match="msgpack"):
        handle.options(request_serialization="msgpack")
    with pytest.raises(TypeError):
        handle.options(methodname="x")  # type: ignore[call-overload]


def _until(true: Any) -> None:
    deadline = time.monotonic() + 5
    while not true():
        assert time.monotonic() < deadline, "it never became true"
        time.sleep(0.001)
