"""What a changed option does to replicas that run: nothing, a call of theirs, or others in their place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import serve_rt as serve
from tests.cluster.processes import eventually
from tests.conformance.apps_updates import Configured, Process
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


@covers("1.9-41", "1.10-05")
def test_a_new_user_config_is_taken_before_run_returns_and_a_bad_one_takes_nothing_away(cluster: Cluster) -> None:
    """Without the waiting the second state is the first one; without the refusal both replicas end and none starts."""

    def run_with(level: object) -> set[Any]:
        app = Configured.options(user_config={"level": level}, num_replicas=2).bind()
        handle = serve.run(app, name="configured", route_prefix=None)
        return set(handle.broadcast("state").results(timeout_s=10))

    first = run_with(1)
    second = run_with(2)
    assert {pid for pid, _ in first} == {pid for pid, _ in second} and {level for _, level in second} == {2.0}
    with pytest.raises(RuntimeError, match="could not convert string to float: 'high'"):
        run_with("high")
    overview = serve.status().applications["configured"]
    assert overview.status == "DEPLOY_FAILED" and "go on with the former user_config" in overview.message
    assert overview.deployments["Configured"].replica_states == {"RUNNING": 2}
    assert set(serve.get_app_handle("configured").broadcast("state").results(timeout_s=10)) == second
    third = run_with(3)
    assert {pid for pid, _ in third} == {pid for pid, _ in first} and {level for _, level in third} == {3.0}
    assert serve.status().applications["configured"].status == "RUNNING"
    serve.delete("configured", _blocking=False)
