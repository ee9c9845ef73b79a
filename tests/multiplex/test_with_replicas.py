"""Multiplexed models behind real replicas: where requests go, what stays, what is dropped."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

import serve_rt as serve
from tests.handle.conftest import own_cluster  # noqa: F401
from tests.multiplex.model_apps import Hub

pytestmark = pytest.mark.cluster
LIGHT = {"num_cpus": 0.1}


@pytest.fixture(scope="module")
def hub(own_cluster: str) -> Any:  # noqa: F811
    two = Hub.options(ray_actor_options=LIGHT, num_replicas=2)
    handle = serve.run(two.bind(), name="hub", route_prefix="/hub")
    pids: set[int] = set()

    def both_answer() -> bool:
        pids.add(handle.loads.remote().result(timeout_s=10)[0])
        return len(pids) == 2

    until(both_answer)
    return handle


def served_by(hub: Any, model: str) -> int:
    answer = hub.options(multiplexed_model_id=model).who.remote().result(timeout_s=10)
    assert (answer["model"], answer["tokenizer"]) == (f"model {model}", f"tokenizer {model}")
    return int(answer["pid"])


def test_each_model_has_its_replica_and_models_are_spread(hub: Any) -> None:
    burst = [hub.options(multiplexed_model_id=f"m{number % 4}").who.remote() for number in range(40)]
    by_model: dict[str, set[int]] = {}
    for response in burst:
        answer = response.result(timeout_s=10)
        by_model.setdefault(answer["model"], set()).add(answer["pid"])
    homes = [next(iter(pids)) for pids in by_model.values() if len(pids) == 1]
    assert len(homes) == 4 and len(set(homes)) == 2 and homes.count(homes[0]) == 2, by_model
    for number in range(12):
        assert served_by(hub, f"m{number % 4}") in by_model[f"model m{number % 4}"]


def test_by_http_header(own_cluster: str, hub: Any) -> None:  # noqa: F811
    home = served_by(hub, "m1")
    for name in ("serve_multiplexed_model_id", "Serve-Multiplexed-Model-Id"):
        for _ in range(3):
            request = urllib.request.Request(f"http://{own_cluster}/hub", headers={name: "m1"})
            with urllib.request.urlopen(request, timeout=10) as answer:
                told = json.load(answer)
            assert told["model"] == "model m1"
    # The proxy learned from the replica where the model is, without having sent a request for it before.
    assert told["pid"] == home


def test_a_model_in_use_stays_and_is_let_go_when_its_requests_have_ended(own_cluster: str) -> None:  # noqa: F811
    alone = serve.run(Hub.options(ray_actor_options=LIGHT).bind(), name="alone", route_prefix=None)
    held = [alone.options(multiplexed_model_id=name).hold.remote() for name in ("a", "b")]
    until(lambda: sorted(alone.loads.remote().result(timeout_s=10)[1]) == ["a", "b"])
    third = alone.options(multiplexed_model_id="c").who.remote()
    with pytest.raises(TimeoutError):
        third.result(timeout_s=0.3)
    assert "c" not in alone.loads.remote().result(timeout_s=10)[1]
    alone.let_go.remote().result(timeout_s=10)
    assert [response.result(timeout_s=10) for response in held] == ["model a", "model b"]
    assert third.result(timeout_s=10)["model"] == "model c", "its place came free with the requests"
    with pytest.raises(ValueError, match="broken weights"):
        alone.options(multiplexed_model_id="broken").who.remote().result(timeout_s=10)
    serve.delete("alone")


def until(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 15
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
