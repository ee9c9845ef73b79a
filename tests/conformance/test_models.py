"""`@serve.multiplexed` behind real replicas."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import serve_rt as serve
from serve_rt.multiplex.held import held
from tests.cluster.processes import eventually
from tests.conformance.apps_handles import Worker
from tests.conformance.asking import ANSWER_S, Cluster
from tests.conformance.bullets import covers


@pytest.fixture(scope="module", autouse=True)
def worker(cluster: Cluster) -> Iterator[Any]:
    yield serve.run(Worker.bind(), name="models", route_prefix="/models")
    serve.delete("models", _blocking=False)


def _seen(worker: Any, *words: str) -> list[str]:
    noted = worker.noted.remote().result(timeout_s=ANSWER_S)
    return [note for note in noted if note.split()[-1] in words]


def _use(worker: Any, model: str, method: str = "use") -> Any:
    return worker.options(method_name=method, multiplexed_model_id=model).remote().result(timeout_s=ANSWER_S)


@covers("1.13-01")
def test_the_latest_used_stay(worker: Any) -> None:
    for model in ("a", "b", "a", "c", "a"):
        assert _use(worker, model) == model
    assert [note for note in _seen(worker, "a", "b", "c") if note.startswith("loaded")] == [
        "loaded a",
        "loaded b",
        "loaded c",
    ]
    assert _use(worker, "b") == "b"
    assert _seen(worker, "b").count("loaded b") == 2, "b was the oldest when c came"


@covers("1.13-03")
def test_a_model_in_use_stays(worker: Any) -> None:
    held = [
        worker.options(method_name="use_and_wait", multiplexed_model_id=f"held-{name}").remote(name) for name in "xy"
    ]
    eventually(lambda: len(_seen(worker, "x", "y")) == 2, ANSWER_S, "both are in use")
    third = worker.options(method_name="use", multiplexed_model_id="third").remote()
    with pytest.raises(TimeoutError):
        third.result(timeout_s=0.3)
    assert "loaded third" not in _seen(worker, "third")
    for name in "xy":
        worker.let_go.remote(name).result(timeout_s=ANSWER_S)
    assert [one.result(timeout_s=ANSWER_S) for one in held] == ["held-x", "held-y"]
    assert third.result(timeout_s=ANSWER_S) == "third"


@covers("1.13-04")
def test_loads_side_by_side_and_once(worker: Any) -> None:
    first = [worker.options(method_name="use", multiplexed_model_id="slow-1").remote() for _ in range(3)]
    second = worker.options(method_name="use", multiplexed_model_id="slow-2").remote()
    eventually(lambda: len(_seen(worker, "slow-1", "slow-2")) == 2, ANSWER_S, "both are loading")
    worker.let_go.remote("slow-2").result(timeout_s=ANSWER_S)
    assert second.result(timeout_s=ANSWER_S) == "slow-2", "it did not wait for the one that began before it"
    worker.let_go.remote("slow-1").result(timeout_s=ANSWER_S)
    assert [one.result(timeout_s=ANSWER_S) for one in first] == ["slow-1"] * 3
    assert _seen(worker, "slow-1") == ["loading slow-1", "loaded slow-1"]


@covers("1.13-05")
def test_what_goes_is_told(cluster: Cluster, tmp_path: Path) -> None:
    notes = tmp_path / "gone"
    worker = serve.run(Worker.bind(str(notes)), name="mortal models", route_prefix=None)
    for model in ("a", "b", "c"):
        _use(worker, model)
    eventually(lambda: notes.exists() and notes.read_text() == "a\n", ANSWER_S, "the evicted one is told")
    serve.delete("mortal models")
    eventually(lambda: sorted(notes.read_text().split()) == ["a", "b", "c"], ANSWER_S, "and the others at the end")


@covers("1.13-05")
def test_a_model_that_fails_to_go_costs_nobody_a_request(worker: Any) -> None:
    for model in ("hard to part with", "one", "two", "three"):
        assert _use(worker, model) == model


@covers("1.13-06")
def test_two_loaders_have_caches_of_their_own(worker: Any) -> None:
    for model in ("m", "n", "m"):
        assert _use(worker, model, "use_both") == (model, f"tokenizer of {model}")
    seen = _seen(worker, "m", "n")
    assert [note for note in seen if note.startswith("loaded")] == ["loaded m", "loaded n"]
    assert [note for note in seen if note.startswith("tokenizer")] == ["tokenizer m", "tokenizer n", "tokenizer m"]


@covers("1.13-07")
@pytest.mark.parametrize(
    "header",
    [
        "serve_multiplexed_model_id",
        "serve-multiplexed-model-id",
        "Serve_Multiplexed_Model_Id",
        "SERVE-MULTIPLEXED-MODEL-ID",
    ],
)
def test_the_id_by_header(cluster: Cluster, header: str) -> None:
    assert cluster.ask("/models", headers={header: "by-header"}).json() == {"model": "by-header"}


@covers("1.13-07", "1.13-02")
def test_the_id_by_option_and_none(cluster: Cluster, worker: Any) -> None:
    assert _use(worker, "by-option") == "by-option"
    with pytest.raises(ValueError, match="The model ID cannot be empty"):
        worker.use.remote().result(timeout_s=ANSWER_S)
    with pytest.raises(TypeError, match="The model ID must be a string, got 7"):
        worker.load_nothing.remote(7).result(timeout_s=ANSWER_S)
    assert cluster.get("/models").status == 500


@covers("1.13-08")
def test_outside_of_a_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "_watcher", None)  # a run in local testing mode has made this process one

    class Here:
        @serve.multiplexed
        async def load(self, model_id: str) -> str:
            return model_id

    with pytest.raises(RuntimeError, match="can only be used within a deployment"):
        asyncio.run(Here().load("a"))


@covers("1.13-09")
def test_requests_go_where_the_model_is(cluster: Cluster) -> None:
    many = serve.run(Worker.options(num_replicas=3).bind(), name="many models", route_prefix=None)
    homes: dict[str, set[str]] = {}
    for _ in range(6):
        for model in ("p", "q", "r"):
            home = many.options(method_name="who", multiplexed_model_id=model)
            _use(many, model)
            homes.setdefault(model, set()).add(home.remote().result(timeout_s=ANSWER_S))
    assert all(len(replicas) == 1 for replicas in homes.values()), homes
    serve.delete("many models", _blocking=False)
