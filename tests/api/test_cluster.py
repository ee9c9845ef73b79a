"""The whole road with real processes: a cluster of our own, deployed to, called, ended."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import serve_rt as serve
from serve_rt.api import session as sessions
from serve_rt.errors import RequestCancelledError
from serve_rt.handle.serialization import RemoteTraceback
from tests.api.cluster_apps import Broken, Front, Worker

pytestmark = pytest.mark.cluster
ONE_CPU = {"num_cpus": 0.1}


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A cluster of this process; the value is its HTTP address."""
    folder = tempfile.mkdtemp(prefix="srt-", dir="/tmp")
    before = {name: os.environ.get(name) for name in ("SERVE_STATE_DIR", "SERVE_ADDRESS")}
    os.environ["SERVE_STATE_DIR"] = folder
    os.environ.pop("SERVE_ADDRESS", None)
    try:
        serve.start(http_options={"port": 0})
        yield sessions.current().identity.http_address
    finally:
        serve.shutdown()
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def app(cluster: str) -> Any:
    worker = Worker.options(ray_actor_options=ONE_CPU).bind(bias=100)
    return serve.run(Front.options(ray_actor_options=ONE_CPU).bind(worker), name="shop", route_prefix="/shop")


@pytest.fixture(scope="module")
def worker(app: Any) -> Any:
    return serve.get_deployment_handle("_Worker", "shop")


def test_http_through_two_deployments(cluster: str, app: Any) -> None:
    with urllib.request.urlopen(f"http://{cluster}/shop?n=5", timeout=10) as answer:
        assert json.load(answer) == {"total": 215, "who": "_Front"}


def test_calls_from_the_driver(worker: Any) -> None:
    assert worker.add.remote(1, right=2).result(timeout_s=10) == 103
    assert worker.pid.remote().result(timeout_s=10) != os.getpid()

    async def main() -> list[int]:
        return list(await asyncio.gather(*(worker.add.remote(number) for number in range(50))))

    assert asyncio.run(main()) == [100 + number for number in range(50)]


def test_user_errors_keep_their_type(worker: Any) -> None:
    with pytest.raises(LookupError, match="nothing here") as raised:
        worker.fail.remote("nothing here").result(timeout_s=10)
    assert isinstance(raised.value.__cause__, RemoteTraceback)


def test_large_arguments_and_answers(worker: Any) -> None:
    size = 5_000_000
    assert len(worker.big.remote(size).result(timeout_s=20)) == size
    assert worker.length.remote(b"y" * size).result(timeout_s=20) == size
    assert worker.length.remote(worker.big.remote(size)).result(timeout_s=20) == size


def test_streams_through_two_deployments(app: Any) -> None:
    assert list(app.chain.options(stream=True).remote(200)) == [2 * number for number in range(200)]


def test_batches_gather_calls(worker: Any) -> None:
    responses = [worker.squares.remote(number) for number in range(16)]
    answers = [response.result(timeout_s=10) for response in responses]
    assert [square for square, _ in answers] == [number * number for number in range(16)]
    assert max(size for _, size in answers) > 1


@pytest.mark.parametrize("method", ["hang", "forget"])
def test_cancelling_a_call_cancels_its_child(app: Any, worker: Any, method: str) -> None:
    before = worker.cancellations.remote().result(timeout_s=10)
    response = getattr(app, method).remote()
    with pytest.raises(TimeoutError):
        response.result(timeout_s=0.3)
    response.cancel()
    with pytest.raises(RequestCancelledError):
        response.result(timeout_s=5)
    _until(lambda: worker.cancellations.remote().result(timeout_s=10) == before + 1)


def test_applications_find_each_other(app: Any) -> None:
    serve.run(Worker.options(ray_actor_options=ONE_CPU).bind(), name="other", route_prefix=None)
    assert app.neighbour.remote("other").result(timeout_s=10) == 2
    assert set(serve.status().applications) >= {"shop", "other"}
    serve.delete("other")
    assert "other" not in serve.status().applications


def test_the_same_again_restarts_nothing_and_a_change_does(cluster: str) -> None:
    light = Worker.options(ray_actor_options=ONE_CPU)
    handle = serve.run(light.bind(1), name="again", route_prefix="/again")
    pid = handle.pid.remote().result(timeout_s=10)
    handle = serve.run(light.options(max_ongoing_requests=7).bind(1), name="again", route_prefix="/again")
    assert handle.pid.remote().result(timeout_s=10) == pid
    handle = serve.run(light.bind(2), name="again", route_prefix="/again")
    assert handle.add.remote(0).result(timeout_s=10) == 2
    serve.delete("again")


def test_a_failing_constructor_fails_the_deploy_with_its_traceback(cluster: str) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)Deploying application bad failed: .*the weights are missing"):
        serve.run(Broken.options(ray_actor_options=ONE_CPU).bind(), name="bad", route_prefix="/bad")
    serve.delete("bad")


def test_names_that_do_not_exist(cluster: str) -> None:
    with pytest.raises(serve_error(), match="Application 'nobody' does not exist"):
        serve.get_app_handle("nobody")
    with pytest.raises(KeyError, match=r"Deployment\(name='x', app='y'\) does not exist"):
        serve.get_deployment_handle("x", "y")


def serve_error() -> type[Exception]:
    from serve_rt.exceptions import RayServeException

    return RayServeException


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline, "it never became true"
        time.sleep(0.02)
