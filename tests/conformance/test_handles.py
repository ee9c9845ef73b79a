"""`DeploymentHandle`, from a driver and from inside replicas."""

from __future__ import annotations

import asyncio
import pickle
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import serve_rt as serve
from serve_rt.exceptions import (
    DeploymentUnavailableError,
    RayServeException,
    ReplicaUnavailableError,
    RequestCancelledError,
)
from serve_rt.handle import DeploymentHandle, DeploymentResponse, DeploymentResponseGenerator
from tests.conformance.apps_handles import Front, OddError, Worker
from tests.conformance.asking import ANSWER_S, Cluster
from tests.conformance.bullets import covers


@pytest.fixture(scope="module", autouse=True)
def front(cluster: Cluster) -> Iterator[Any]:
    yield serve.run(Front.bind(Worker.options(num_replicas=2).bind()), name="handles", route_prefix=None)
    serve.delete("handles", _blocking=False)


@pytest.fixture(scope="module")
def worker(front: Any) -> Any:
    handle = serve.get_deployment_handle("Worker", "handles")
    replicas: set[str] = set()
    while len(replicas) < 2:
        replicas.add(handle.who.remote().result(timeout_s=ANSWER_S))
    return handle


@covers("1.14-01")
def test_remote_returns_at_once(worker: Any) -> None:
    began_s = time.monotonic()
    response = worker.wait.remote("at once")
    assert time.monotonic() - began_s < 1.0 and isinstance(response, DeploymentResponse)
    worker.broadcast("let_go", "at once").results(timeout_s=ANSWER_S)
    assert response.result(timeout_s=ANSWER_S) == "at once"
    stream = worker.count.options(stream=True).remote(2)
    assert isinstance(stream, DeploymentResponseGenerator) and list(stream) == [0, 1]


@covers("1.14-01")
@pytest.mark.parametrize("way", ["attribute", "option", "getattr", "chained"])
def test_methods_by_name(worker: Any, way: str) -> None:
    by = {
        "attribute": lambda: worker.echo,
        "option": lambda: worker.options(method_name="echo"),
        "getattr": lambda: getattr(worker, "echo"),  # noqa: B009  # what is tried
        "chained": lambda: worker.who.options(method_name="echo"),
    }[way]()
    assert by.remote(1, b=2).result(timeout_s=ANSWER_S) == ((1,), {"b": 2})


@covers("1.14-01")
def test_the_class_itself_is_called_without_a_name(worker: Any) -> None:
    assert worker.remote("a", 1).result(timeout_s=ANSWER_S) == ("a", 1)
    with pytest.raises(
        RayServeException, match=r"method 'nothing' that does not exist\. Available methods: \[.*'echo'"
    ):
        worker.nothing.remote().result(timeout_s=ANSWER_S)


@covers("1.14-02")
def test_options_make_another_handle(worker: Any) -> None:
    other = worker.options(method_name="who", multiplexed_model_id="m", session_id="s")
    assert other is not worker and other != worker and worker == serve.get_deployment_handle("Worker", "handles")
    assert other.options(multiplexed_model_id="", session_id="") == worker.who
    assert other.remote().result(timeout_s=ANSWER_S)


@covers("1.14-02")
@pytest.mark.parametrize(
    ("wrong", "kind", "said"),
    [
        ({"method_nme": "who"}, TypeError, "unexpected keyword argument 'method_nme'. Did you mean 'method_name'"),
        ({"zzz": 1}, TypeError, "'zzz'. Known: .*stream"),
        ({"method_name": 3}, TypeError, "method_name of .* must be a str, got 3"),
        ({"method_name": ""}, ValueError, "method_name .* is empty"),
        ({"multiplexed_model_id": None}, TypeError, "multiplexed_model_id .* must be a str, got None"),
        ({"session_id": 1.5}, TypeError, "session_id .* must be a str"),
        ({"stream": "yes"}, TypeError, "stream .* must be a bool, got 'yes'"),
        ({"request_serialization": "protobuf"}, ValueError, "request_serialization='protobuf'.*cloudpickle"),
        ({"response_serialization": "noop"}, ValueError, "response_serialization='noop'"),
    ],
)
def test_what_options_refuses(worker: Any, wrong: dict[str, Any], kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        worker.options(**wrong)


@covers("1.14-03")
def test_a_response_as_an_argument(front: Any, worker: Any) -> None:
    first = worker.echo.remote("one")
    args, kwargs = worker.echo.remote(first, "two", word=first).result(timeout_s=ANSWER_S)
    assert (args, kwargs) == (((("one",), {}), "two"), {"word": (("one",), {})})
    assert front.chain.remote(5).result(timeout_s=ANSWER_S) == ((((5,), {}),), {"again": ((5,), {})})
    with pytest.raises(OddError, match="upstream"):
        worker.echo.remote(worker.fail.remote("upstream")).result(timeout_s=ANSWER_S)


@covers("1.14-03")
def test_the_caller_never_opens_what_it_passes_on(worker: Any) -> None:
    """An object that cannot be made here goes from one replica to another."""
    secret = worker.echo.remote(_Touchy())
    assert _Touchy.opened_here == 0
    (args, _) = worker.echo.remote(secret, 1).result(timeout_s=ANSWER_S)
    assert args[1] == 1 and _Touchy.opened_here == 1, "opened once: in the answer to the second call"


class _Touchy:
    opened_here = 0

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return (_touched, ())


def _touched() -> _Touchy:
    _Touchy.opened_here += 1
    return _Touchy()


@covers("1.14-04")
@pytest.mark.parametrize(
    "nest", [lambda r: [r], lambda r: {"x": r}, lambda r: (1, {"y": [r]})], ids=["list", "dict", "deep"]
)
def test_a_response_inside_something(worker: Any, nest: Any) -> None:
    with pytest.raises(RayServeException, match="`DeploymentResponse` is not serializable.*top-level argument"):
        worker.echo.remote(nest(worker.who.remote()))


@covers("1.14-05")
def test_a_stream_as_an_argument(worker: Any) -> None:
    with pytest.raises(RuntimeError, match="Streaming deployment handle results cannot be passed to downstream"):
        worker.echo.remote(worker.count.options(stream=True).remote(1))


@covers("1.14-06")
def test_choose_then_dispatch(worker: Any) -> None:
    async def main() -> None:
        async with worker.choose_replica() as chosen:
            assert chosen.replica_id.startswith("handles#Worker#") and chosen.node_ip == "127.0.0.1"
            assert isinstance(chosen.port, int) and chosen.node_id and chosen.replica_metadata == {}
            assert await worker.who.dispatch(chosen) == chosen.replica_id

    asyncio.run(main())


@covers("1.14-07")
def test_what_dispatch_refuses(cluster: Cluster, front: Any, worker: Any) -> None:
    async def main() -> None:
        async with worker.choose_replica() as chosen:
            with pytest.raises(ValueError, match=r"name='Worker', app='handles'.*name='Front'"):
                front.wait_below.dispatch(chosen)
            first = worker.who.dispatch(chosen)
            with pytest.raises(RuntimeError, match="dispatched already"):
                worker.who.dispatch(chosen)
            await first
        async with worker.choose_replica() as unused:
            pass
        with pytest.raises(RuntimeError, match="given back"):
            worker.who.dispatch(unused)

    asyncio.run(main())


@covers("1.14-08")
def test_broadcast(worker: Any) -> None:
    everybody = worker.broadcast("who").results(timeout_s=ANSWER_S)
    assert len(everybody) == len(set(everybody)) == 2

    async def main() -> list[Any]:
        return list(await worker.broadcast("echo", 1, b=2).results_async(timeout_s=ANSWER_S))

    assert asyncio.run(main()) == [((1,), {"b": 2})] * 2


@covers("1.14-09")
def test_broadcasts_that_go_wrong(cluster: Cluster, worker: Any) -> None:
    here = worker.who.remote().result(timeout_s=ANSWER_S)
    response = worker.broadcast("fail_where", here)
    answers = response.results(timeout_s=ANSWER_S, return_exceptions=True)
    assert sorted(type(answer).__name__ for answer in answers) == ["OddError", "str"]
    with pytest.raises(OddError):
        response.results(timeout_s=ANSWER_S)
    with pytest.raises(ValueError, match="timeout_s must not be negative, got -1"):
        response.results(timeout_s=-1)
    slow = worker.broadcast("wait", "never")
    with pytest.raises(TimeoutError, match=r"within 0\.1 s"):
        slow.results(timeout_s=0.1)
    slow.cancel()
    with pytest.raises(RequestCancelledError):
        slow.results(timeout_s=ANSWER_S)
    with pytest.raises(TypeError, match="name of a method first, got 3"):
        worker.broadcast(3)
    with pytest.raises(DeploymentUnavailableError):
        DeploymentHandle[Any]("Worker", "nobody's").broadcast("who").results(timeout_s=ANSWER_S)


@covers("1.14-10")
def test_what_a_handle_is(worker: Any) -> None:
    assert (worker.deployment_name, worker.app_name) == ("Worker", "handles")
    assert str(worker.deployment_id) == "Deployment(name='Worker', app='handles')"
    assert repr(worker) == "DeploymentHandle(deployment='Worker')"
    assert worker.handle_id != worker.who.handle_id
    fresh: Any = serve.get_deployment_handle("Worker", "handles")
    assert not fresh.is_initialized
    assert fresh.who.remote().result(timeout_s=ANSWER_S)
    assert worker.running_replicas_populated()
    changed = worker.options(method_name="echo", session_id="s", stream=True)
    assert pickle.loads(pickle.dumps(changed)) == changed != worker and hash(changed) != hash(worker)
    assert worker.echo.remote(changed).result(timeout_s=ANSWER_S)[0][0] == changed
    worker.shutdown()
    asyncio.run(worker.shutdown_async())
    assert worker.who.remote().result(timeout_s=ANSWER_S), "streams are the process's, not the handle's"


@covers("1.14-11")
def test_threads_and_loops(worker: Any) -> None:
    async def several() -> list[Any]:
        return list(await asyncio.gather(*(worker.echo.remote(n) for n in range(5))))

    def in_a_loop() -> Any:
        return asyncio.run(several())

    def in_a_thread() -> Any:
        return [worker.echo.remote(n).result(timeout_s=ANSWER_S) for n in range(5)]

    with ThreadPoolExecutor(6) as pool:
        done = [pool.submit(one) for one in (in_a_loop, in_a_thread) * 3]
        assert all(one.result(ANSWER_S) == [((n,), {}) for n in range(5)] for one in done)


@covers("1.14-11", "1.15-01")
def test_one_response_for_threads_and_loops(worker: Any) -> None:
    response = worker.wait.remote("shared")
    answers: list[Any] = []

    async def awaited() -> Any:
        return await response

    threads = [
        threading.Thread(target=lambda: answers.append(asyncio.run(awaited()))),
        threading.Thread(target=lambda: answers.append(response.result(timeout_s=ANSWER_S))),
    ]
    for thread in threads:
        thread.start()
    worker.broadcast("let_go", "shared").results(timeout_s=ANSWER_S)
    for thread in threads:
        thread.join(ANSWER_S)
    assert answers == ["shared", "shared"]


@covers("1.14-12")
def test_init_comes_once(worker: Any) -> None:
    fresh = DeploymentHandle[Any]("Worker", "handles")
    fresh._init(_prefer_local_routing=True)
    assert fresh.is_initialized
    with pytest.raises(RuntimeError, match="has already been initialized"):
        fresh._init()
    used = worker.who
    used.remote().result(timeout_s=ANSWER_S)
    with pytest.raises(RuntimeError, match="has already been initialized"):
        used._init()


@covers("1.14-13")
def test_gone_is_gone_at_once(cluster: Cluster) -> None:
    gone = serve.run(Worker.bind(), name="soon gone", route_prefix=None)
    assert gone.echo.remote(1).result(timeout_s=ANSWER_S)
    serve.delete("soon gone")
    began_s = time.monotonic()
    with pytest.raises(DeploymentUnavailableError, match="soon gone"):
        gone.echo.remote(1).result(timeout_s=ANSWER_S)
    with pytest.raises(RayServeException, match="Application 'soon gone' does not exist"):
        serve.get_app_handle("soon gone")
    assert time.monotonic() - began_s < 5.0
    assert issubclass(ReplicaUnavailableError, RayServeException)


@covers("1.14-01")
def test_what_cannot_travel_is_named(worker: Any) -> None:
    with pytest.raises(TypeError, match=r"Could not serialize argument 1 of type lock.*"):
        worker.echo.remote(1, threading.Lock())
    with pytest.raises(TypeError, match="Could not serialize argument 'key' of type"):
        worker.echo.remote(key=threading.Lock())
