"""Local testing mode: an application in this process, without a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

import serve_rt as serve
from serve_rt.exceptions import RequestCancelledError
from serve_rt.handle.runtime import find_runtime, install
from serve_rt.multiplex.held import held
from tests.conformance.apps_handles import Front, Worker
from tests.conformance.apps_routing import NeverReady
from tests.conformance.bullets import covers


@pytest.fixture(scope="module", autouse=True)
def front() -> Iterator[Any]:
    """What handles lead to is put back: the shared cluster may stand already."""
    before, watcher = find_runtime(), held._watcher
    yield serve.run(Front.bind(Worker.bind(), {"again": []}), name="local", _local_testing_mode=True)
    install(before)
    held._watcher = watcher  # this process plays no replica any more


@pytest.fixture
def worker(front: Any) -> Any:
    return serve.get_deployment_handle("Worker", "local")


@covers("1.19-01")
def test_calls(front: Any, worker: Any) -> None:
    assert front.chain.remote(3).result(timeout_s=5) == (((((3,), {}),)), {"again": ((3,), {})})
    assert list(front.relay.options(stream=True).remote(3)) == [0, 10, 20]
    response = worker.wait.remote("local")
    with pytest.raises(TimeoutError):
        response.result(timeout_s=0.1)
    response.cancel()
    with pytest.raises(RequestCancelledError):
        response.result(timeout_s=5)


@covers("1.19-02")
def test_a_constructor_that_raises() -> None:
    with pytest.raises(RuntimeError, match="no weights here"):
        serve.run(NeverReady.bind(), name="broken", _local_testing_mode=True)


@covers("1.19-03")
def test_copies(worker: Any) -> None:
    given = {"list": [1]}
    (seen,), _ = worker.echo.remote(given).result(timeout_s=5)
    assert seen == given and seen is not given and seen["list"] is not given["list"]


@covers("1.19-04")
def test_all_of_one(worker: Any) -> None:
    assert worker.broadcast("noted").results(timeout_s=5) == [worker.noted.remote().result(timeout_s=5)]

    async def choose() -> Any:
        async with worker.choose_replica() as chosen:
            return await worker.options(method_name="echo").dispatch(chosen, 1)

    assert asyncio.run(choose()) == ((1,), {})


@covers("1.19-05")
def test_contexts(worker: Any) -> None:
    assert worker.options(multiplexed_model_id="m").use.remote().result(timeout_s=5) == "m"
