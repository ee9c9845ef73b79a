"""What a changed option does to replicas that run: nothing, a call of theirs, or others in their place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import serve_rt as serve
from tests.cluster.processes import eventually
from tests.conformance.apps_updates import Process
from tests.conformance.asking import LIGHT, Cluster, call
from tests.conformance.bullets import covers


def run(word: str = "", **options: Any) -> int:
    serve.run(Process.options(**options).bind(word), name="process", route_prefix=None)
    return int(call("process", "pid"))


@pytest.fixture(scope="module", autouse=True)
def app(cluster: Cluster) -> Iterator[None]:
    run()
    yield
    serve.delete("process", _blocking=False)


@covers("1.9-40")
@pytest.mark.parametrize(
    "options",
    [
        {"max_queued_requests": 9},
        {"max_surge_percent": 50, "rolling_update_percentage": 0.5},
        {"graceful_shutdown_timeout_s": 3, "health_check_period_s": 3, "health_check_timeout_s": 4},
        {"backpressure_config": {"status_code": 429}},
        {"max_ongoing_requests": 3},
        {"logging_config": {"log_level": "WARNING"}},
    ],
)
def test_light_changes(options: dict[str, Any]) -> None:
    before = run()
    assert run(**options) == before


@covers("1.9-40", "1.6-04")
def test_the_number_of_replicas() -> None:
    before = run()
    run(num_replicas=2)
    assert serve.status().applications["process"].deployments["Process"].replica_states == {"RUNNING": 2}
    handle = serve.get_app_handle("process")
    assert before in {handle.pid.remote().result(timeout_s=10) for _ in range(30)}
    run(num_replicas=1)
    deployments = eventually(
        lambda: (
            (now := serve.status().applications["process"].deployments)["Process"].replica_states == {"RUNNING": 1}
            and now
        ),
        30,
        "one replica is left",
    )
    assert deployments["Process"].status == "HEALTHY"


@covers("1.8-08", "1.10-06")
def test_ranks_without_gaps_in_a_world_that_shrinks() -> None:
    def numbers() -> list[Any]:
        told = serve.get_app_handle("process").broadcast("numbers").results(timeout_s=10)
        return sorted(told, key=lambda one: one[0])

    run(num_replicas=3, max_surge_percent=0)
    eventually(lambda: [one[:2] for one in numbers()] == [(0, 3), (1, 3), (2, 3)], 20, "three of three")
    config = {"min_replicas": 2, "max_replicas": 2}
    serve.run(Process.options(autoscaling_config=config).bind(), name="process", route_prefix=None)
    eventually(lambda: [one[:2] for one in numbers()] == [(0, 2), (1, 2)], 20, "two of two, the first ones")
    assert all(told[-1] == rank for rank, _, told in numbers()), "reconfigure was told of the new rank"


@covers("1.9-42", "1.9-11")
def test_heavy_changes() -> None:
    first = run()
    second = run("other")
    assert second != first and call("process", "get_word") == "other"
    env = {**LIGHT, "runtime_env": {"env_vars": {"MINE": "yes"}}}
    third = run("other", ray_actor_options=env)
    assert third != second and call("process", "env", "MINE") == "yes"
    assert run("other", ray_actor_options=env) == third, "the same again restarts nothing"
