"""Local testing mode: the real handles, one process, no cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import serve_rt as serve
from serve_rt.errors import RequestCancelledError
from serve_rt.exceptions import RayServeException
from serve_rt.handle.runtime import install
from tests.api.cluster_apps import Broken, Front, Worker


@pytest.fixture(autouse=True)
def _afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SERVE_STATE_DIR", str(tmp_path))
    yield
    install(None)


@pytest.fixture
def app() -> Any:
    return serve.run(Front.bind(Worker.bind(bias=100)), name="shop", _local_testing_mode=True)


@pytest.fixture
def worker(app: Any) -> Any:
    return serve.get_deployment_handle("_Worker", "shop")


def test_calls_and_composition(app: Any, worker: Any) -> None:
    assert worker.add.remote(worker.add.remote(1), right=2).result(timeout_s=5) == 203
    assert list(app.chain.options(stream=True).remote(100)) == [2 * number for number in range(100)]
    assert serve.get_app_handle("shop") == app


def test_errors(worker: Any) -> None:
    with pytest.raises(LookupError, match="gone"):
        worker.fail.remote("gone").result(timeout_s=5)
    with pytest.raises(RayServeException, match=r"method 'nothing' that does not exist.*add"):
        worker.nothing.remote().result(timeout_s=5)
    with pytest.raises(TypeError, match=r"handle.options\(stream=True\)"):
        worker.count.remote(1).result(timeout_s=5)
    with pytest.raises(TypeError, match="did not return a generator"):
        list(worker.add.options(stream=True).remote(1))


def test_batching(worker: Any) -> None:
    async def main() -> list[Any]:
        return list(await asyncio.gather(*(worker.squares.remote(number) for number in range(8))))

    assert asyncio.run(main()) == [(number * number, 8) for number in range(8)]


def test_cancel(worker: Any) -> None:
    response = worker.hang.remote()
    with pytest.raises(TimeoutError):
        response.result(timeout_s=0.1)
    response.cancel()
    with pytest.raises(RequestCancelledError):
        response.result(timeout_s=5)


def test_a_constructor_that_raises() -> None:
    with pytest.raises(OSError, match="the weights are missing"):
        serve.run(Broken.bind(), _local_testing_mode=True)
