"""Tasks and actors in this process, for unit tests of programs that use them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import serve_rt as serve
from serve_rt.exceptions import ActorDiedError
from serve_rt.handle.runtime import find_runtime, install
from tests.work import jobs, stage


@pytest.fixture(autouse=True)
def local(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = find_runtime()
    install(None)
    monkeypatch.setenv("SERVE_FORCE_LOCAL_TESTING_MODE", "1")
    yield
    install(before)


def test_tasks() -> None:
    assert serve.get(jobs.add.remote(jobs.add_later.remote(1, 2), b=3), timeout=10) == 6
    assert serve.get(jobs.fibonacci.remote(5), timeout=10) == 5
    with pytest.raises(LookupError, match="nothing here"):
        serve.get(jobs.fail.remote("nothing here"), timeout=10)


def test_actors() -> None:
    counter = stage.Counter.options(name="here").remote(1)
    assert serve.get([counter.add.remote(1) for _ in range(3)], timeout=10) == [2, 3, 4]
    assert serve.get(stage.add_by_name.remote("here", 1), timeout=10) == 5
    with pytest.raises(ValueError, match="is taken"):
        stage.Counter.options(name="here").remote(1)
    serve.kill(counter)
    with pytest.raises(ActorDiedError):
        serve.get(counter.add.remote(1), timeout=10)
    assert serve.get(stage.Counter.options(name="here").remote(7).add.remote(1), timeout=10) == 8


def test_a_deployment_with_tasks() -> None:
    handle = serve.run(jobs.SUMS.bind(), name="sums", _local_testing_mode=True)
    assert handle.total.remote([1, 2, 3]).result(timeout_s=10) == 9
