"""What the decorators take and refuse; when a task runs again. Nothing is started here."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import cloudpickle
import pytest

import serve_rt as serve
from serve_rt.api.replica_context import ReplicaContext, ReplicaID
from serve_rt.context import RequestContext, current_request
from serve_rt.errors import (
    DeploymentUnavailableError,
    Outcome,
    QueueTimeoutError,
    ReplicaDiedError,
    RequestCancelledError,
    ServeException,
    UserCodeError,
)
from serve_rt.handle.serialization import dump_error
from serve_rt.model.resources import Resources
from serve_rt.model.status import (
    ApplicationStatus,
    ApplicationStatusOverview,
    DeploymentStatus,
    DeploymentStatusOverview,
    NodeOverview,
)
from serve_rt.work import lending
from serve_rt.work.deploying import why_stuck
from serve_rt.work.options import TaskOptions, actor_options, task_options
from serve_rt.work.pool import KEPT_POOLS, most_workers, stale
from serve_rt.work.ref import Verdict, verdict
from tests.work import jobs

DIED = ReplicaDiedError("r", Outcome.UNKNOWN)
NOT_STARTED = ReplicaDiedError("r", Outcome.NOT_STARTED)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"num_cpu": 1}, "Did you mean 'num_cpus'"),
        ({"max_retry": 1}, "Did you mean 'max_retries'"),
        ({"max_retries": -1}, "max_retries must be at least 0, got -1"),
        ({"max_retries": 1.5}, "max_retries must be an integer, got 1.5"),
        ({"num_gpus": 1.5}, "more than one GPU must be a whole number"),
        ({"num_cpus": -1}, "num_cpus must be at least 0"),
        ({"num_gpus": "one"}, "num_gpus must be a number"),
        ({"num_cpus": 0.0001}, "below the smallest part, 0.001"),
        ({"retry_exceptions": ["ValueError"]}, "list of exception types"),
        ({"num_returns": 2}, "`num_returns` is not supported by @serve.task: a call has one result"),
        ({"max_restarts": 2}, "has no option 'max_restarts'"),
        ({"runtime_env": {"pip": ["x"]}}, "runtime_env\\['pip'\\] is not supported"),
    ],
)
def test_bad_options_of_tasks_are_refused_with_a_hint(given: dict[str, Any], words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        serve.task(**given)
    with pytest.raises((TypeError, ValueError), match=words):
        jobs.add.options(**given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"max_concurency": 1}, "Did you mean 'max_concurrency'"),
        ({"max_concurrency": 0}, "max_concurrency must be at least 1"),
        ({"max_restarts": -2}, "max_restarts must be at least -1"),
        ({"lifetime": "for ever"}, "lifetime must be 'detached'"),
        ({"get_if_exists": True}, "get_if_exists=True needs the actor's name"),
        ({"name": "a/b"}, "without '#' and '/'"),
        ({"max_task_retries": 3}, "a method of an actor runs at most once"),
        ({"namespace": "x"}, "names are the cluster's"),
    ],
)
def test_bad_options_of_actors_are_refused_with_a_hint(given: dict[str, Any], words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        actor_options(given)


def test_options_are_taken_as_ray_has_them() -> None:
    options = task_options({"num_cpus": 2, "num_gpus": 0.5, "resources": {"disk": 1}, "memory": 1 << 20})
    assert options.needs.resources == Resources(2000, 1 << 20, 500, {"disk": 1000})
    assert (options.max_retries, options.needs.shown) == (3, "2cpu-0.5gpu")
    actor = actor_options({"name": "c", "get_if_exists": True, "lifetime": "detached", "max_restarts": -1})
    assert (actor.name, actor.detached, actor.max_concurrency, actor.max_restarts) == ("c", True, None, -1)


def _generator() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("target", "words"),
    [(int, "an actor"), (3, "defined with `def`"), (_generator, "a task has one result"), (jobs.add, "a task already")],
)
def test_what_cannot_be_a_task(target: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        serve.task(target)


def test_a_task_says_how_it_is_called() -> None:
    with pytest.raises(TypeError, match=r"add\.remote\(\.\.\.\) runs it in the cluster"):
        jobs.add(1)
    assert jobs.add.func_or_class(1, 2) == 3
    assert jobs.add.__name__ == "add"


def test_a_task_travels() -> None:
    again = pickle.loads(cloudpickle.dumps(jobs.fibonacci.options(max_retries=1)))
    assert again.task_options.max_retries == 1


def test_what_is_not_a_ref_is_refused() -> None:
    with pytest.raises(TypeError, match=r"expected what \.remote\(\)"):
        serve.get(3)  # type: ignore[call-overload]  # as a program without types
    with pytest.raises(ValueError, match="num_returns=1 must be from 1 to 0"):
        serve.wait([])
    with pytest.raises(ValueError, match="force=True is not supported"):
        serve.cancel(None, force=True)  # type: ignore[arg-type]  # refused before it is looked at


# --- when a task runs again ---------------------------------------------------------------------------------------


def _raised(error: BaseException) -> UserCodeError:
    dumped = dump_error(error)
    return UserCodeError(dumped.kind, dumped.message, dumped.pickled, dumped.traceback)


NEEDS = task_options({}).needs


@pytest.mark.parametrize(
    ("error", "options", "lost", "unplaced", "expected"),
    [
        (DIED, TaskOptions(NEEDS), 0, 0, Verdict(True)),
        (DIED, TaskOptions(NEEDS), 2, 0, Verdict(True)),
        (DIED, TaskOptions(NEEDS), 3, 0, Verdict(False)),
        (DIED, TaskOptions(NEEDS, max_retries=0), 0, 0, Verdict(False)),
        (NOT_STARTED, TaskOptions(NEEDS, max_retries=0), 0, 0, Verdict(True, counts=False)),
        (DeploymentUnavailableError("k"), TaskOptions(NEEDS, max_retries=0), 0, 0, Verdict(True, counts=False)),
        (DeploymentUnavailableError("k"), TaskOptions(NEEDS), 0, 5, Verdict(False, counts=False)),
        (_raised(ValueError("x")), TaskOptions(NEEDS), 0, 0, Verdict(False)),
        (_raised(ValueError("x")), TaskOptions(NEEDS, retry_exceptions=True), 0, 0, Verdict(True)),
        (_raised(ValueError("x")), TaskOptions(NEEDS, 3, (OSError,)), 0, 0, Verdict(False)),
        (_raised(ConnectionError("x")), TaskOptions(NEEDS, 3, (OSError,)), 0, 0, Verdict(True)),
        (_raised(ConnectionError("x")), TaskOptions(NEEDS, 3, (OSError,)), 3, 0, Verdict(False)),
        (RequestCancelledError("r"), TaskOptions(NEEDS), 0, 0, Verdict(False)),
        (QueueTimeoutError("r"), TaskOptions(NEEDS), 0, 0, Verdict(False)),
        (ServeException("r"), TaskOptions(NEEDS), 0, 0, Verdict(False)),
    ],
)
def test_a_task_runs_again_only_where_that_is_allowed(
    error: BaseException, options: TaskOptions, lost: int, unplaced: int, expected: Verdict
) -> None:
    assert verdict(error, options, lost, unplaced) == expected


def test_a_pool_is_as_large_as_the_cluster() -> None:
    node = NodeOverview("a", "", True, "schedulable", 4000, 8 << 30, gpus=("x", "y"))
    assert most_workers(Resources(milli_cpu=1000), [node, node]) == 8
    assert most_workers(Resources(milli_cpu=3000), [node, node]) == 2
    assert most_workers(Resources(milli_cpu=0), [node]) == 16
    assert most_workers(Resources(milli_cpu=0, milli_gpu=500), [node]) == 4
    assert most_workers(Resources(milli_cpu=100, milli_gpu=2000), [node]) == 1
    assert most_workers(Resources(milli_cpu=100, memory_bytes=4 << 30), [node]) == 2
    assert most_workers(Resources(milli_cpu=64000), [node]) == 1, "it then waits for a node that has so many"


def test_pools_that_nobody_uses_are_forgotten_beyond_a_few() -> None:
    def pool(age: int, workers: int = 0) -> ApplicationStatusOverview:
        one = DeploymentStatusOverview(DeploymentStatus.HEALTHY, replica_states={"RUNNING": workers})
        return ApplicationStatusOverview(
            ApplicationStatus.RUNNING, last_deployed_time_s=1000.0 - age, deployments={"worker": one}
        )

    pools = {f"tasks:{age}": pool(age) for age in range(KEPT_POOLS + 2)}
    busy = {"tasks:old": pool(900, workers=1), "shop": pool(999), "actor:c": pool(998)}
    assert stale({**pools, **busy}) == [f"tasks:{KEPT_POOLS + 1}", f"tasks:{KEPT_POOLS}"]
    assert stale(busy) == []


def test_a_task_lends_one_place_however_many_results_it_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    context = ReplicaContext("tasks:1cpu:x", "worker", "a", ReplicaID("a"), set_extra_slots=told.append)
    monkeypatch.setattr(lending, "_lends", True)
    monkeypatch.setattr(lending, "find_replica_context", lambda: context)
    one, other = RequestContext("1"), RequestContext("2")
    with lending.lent():
        assert told == [], "nobody's work waits here"
    for task in (one, other):
        current_request.set(task)
        with lending.lent(), lending.lent():
            pass
    assert told == [1, 0, 1, 0]
    current_request.set(one)
    with lending.lent():
        current_request.set(other)
        with lending.lent():
            assert told[-1] == 2
    current_request.set(None)
    assert told[-1] == 0


@pytest.mark.parametrize(
    ("status", "states", "expected"),
    [
        (DeploymentStatus.UPDATING, {}, "no node has a GPU"),
        (DeploymentStatus.UNHEALTHY, {"STARTING": 1}, "no node has a GPU"),
        (DeploymentStatus.UPSCALING, {"RUNNING": 1}, ""),
        (DeploymentStatus.HEALTHY, {}, ""),
    ],
)
def test_who_has_no_process_hears_why(status: DeploymentStatus, states: dict[str, int], expected: str) -> None:
    one = DeploymentStatusOverview(status, replica_states=states, message="no node has a GPU")
    assert why_stuck(ApplicationStatusOverview(ApplicationStatus.DEPLOYING, deployments={"worker": one})) == expected
