"""Tasks with real processes: from a driver, from inside a deployment, from a task; lost workers; cancellation; rest."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

import serve_rt as serve
from serve_rt.exceptions import RequestCancelledError, WorkerCrashedError
from serve_rt.handle.serialization import RemoteTraceback
from serve_rt.model.status import ApplicationStatusOverview
from tests.cluster.processes import eventually
from tests.work import jobs

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("cluster")]


def test_a_task_runs_in_another_process_and_its_result_comes_back() -> None:
    assert serve.get(jobs.add.remote(1, b=2), timeout=20) == 3
    assert jobs.pid.remote().result(timeout_s=20) != os.getpid()
    assert serve.get(jobs.add_later.remote(1, 2), timeout=20) == 3

    async def main() -> list[int]:
        return list(await asyncio.gather(*(jobs.add.remote(n) for n in range(20))))

    assert asyncio.run(main()) == list(range(20))


def test_functions_of_the_program_itself_travel_by_value() -> None:
    factor = 3

    @serve.task
    def times(number: int) -> int:
        return number * factor

    assert serve.get([times.remote(n) for n in range(3)], timeout=20) == [0, 3, 6]


def test_a_ref_is_an_argument() -> None:
    assert serve.get(jobs.add.remote(jobs.add.remote(1, 2), b=jobs.add.remote(3, 4)), timeout=20) == 10


def test_user_errors_keep_their_type() -> None:
    with pytest.raises(LookupError, match="nothing here") as raised:
        serve.get(jobs.fail.remote("nothing here"), timeout=20)
    assert isinstance(raised.value.__cause__, RemoteTraceback)


def test_a_thousand_small_tasks() -> None:
    assert serve.get([jobs.add.remote(n, n) for n in range(1000)], timeout=60) == [2 * n for n in range(1000)]


def test_tasks_run_side_by_side(tmp_path: Path) -> None:
    together = jobs.meet.options(num_cpus=0.1)
    pids = serve.get([together.remote(str(tmp_path), 2) for _ in range(2)], timeout=40)
    assert len(set(pids)) == 2, "one task at a time in a process"


def test_tasks_that_wait_for_tasks_do_not_wait_for_themselves() -> None:
    assert serve.get(jobs.fibonacci.remote(6), timeout=40) == 8


def test_from_inside_a_deployment() -> None:
    handle = serve.run(jobs.SUMS.bind(), name="sums", route_prefix=None)
    assert handle.total.remote([1, 2, 3]).result(timeout_s=30) == 9
    assert handle.total_in_a_thread.remote([1, 2, 3]).result(timeout_s=30) == 9
    assert len(_pools()) >= 1, "the driver's and the deployment's code is the same: so are the workers"
    serve.delete("sums")


def test_wait_tells_what_is_done(tmp_path: Path) -> None:
    slow, quick = jobs.until_asked.remote(str(tmp_path)), jobs.add.options(num_cpus=0.1).remote(1)
    done, left = serve.wait([slow, quick], timeout=20)
    assert (done, left) == ([quick], [slow])
    serve.cancel(slow)
    assert serve.wait([slow, quick], num_returns=2, timeout=20) == ([slow, quick], [])


@pytest.mark.parametrize("task", [jobs.until_cancelled, jobs.until_asked])
def test_cancellation_reaches_the_function(tmp_path: Path, task: Any) -> None:
    ref = task.remote(str(tmp_path))
    eventually((tmp_path / "began").exists, 20, "it runs")
    serve.cancel(ref)
    with pytest.raises(RequestCancelledError):
        serve.get(ref, timeout=5)
    eventually((tmp_path / "cancelled").exists, 10, "the function is told")


def test_a_worker_that_is_to_go_does_not_wait_for_a_task_that_nobody_waits_for(tmp_path: Path) -> None:
    before = set(_pools())
    ref = jobs.deaf.remote(str(tmp_path))
    eventually((tmp_path / "began").exists, 20, "it runs")
    serve.cancel(ref)
    for name in set(_pools()) - before:
        serve.delete(name, _blocking=False)
    eventually(lambda: set(_pools()) <= before, 20, "the worker has ended: its task sleeps for a minute")


# --- lost workers -------------------------------------------------------------------------------------------------


def test_a_task_whose_worker_is_killed_runs_again(tmp_path: Path) -> None:
    path = tmp_path / "runs"
    assert serve.get(jobs.note_and_die.remote(str(path), 1), timeout=30) == "run 2"


def test_at_most_once_means_once(tmp_path: Path) -> None:
    path = tmp_path / "runs"
    with pytest.raises(WorkerCrashedError, match=r"task note_and_die died .* max_retries=0 allows no more"):
        serve.get(jobs.note_and_die.options(max_retries=0).remote(str(path), 9), timeout=30)
    assert path.read_text() == "x"


def test_exceptions_are_retried_where_that_was_asked_for(tmp_path: Path) -> None:
    task = jobs.fail_at_first
    with pytest.raises(ConnectionError):
        serve.get(task.options(retry_exceptions=[ValueError]).remote(str(tmp_path / "a")), timeout=20)
    assert serve.get(task.options(retry_exceptions=[OSError]).remote(str(tmp_path / "b")), timeout=20) == "done"


def test_a_pool_that_was_deleted_is_made_again() -> None:
    assert serve.get(jobs.add.remote(1), timeout=20) == 1
    for name in _pools():
        serve.delete(name)
    assert serve.get(jobs.add.remote(1), timeout=20) == 1


def test_idle_workers_go() -> None:
    assert serve.get(jobs.add.remote(1), timeout=20) == 1
    assert any(_workers(app) for app in _pools().values())
    eventually(lambda: not any(_workers(app) for app in _pools().values()), 40, "no worker is left")
    assert serve.get(jobs.add.remote(2), timeout=20) == 2, "and from none"


def _pools() -> dict[str, ApplicationStatusOverview]:
    return {name: app for name, app in serve.status().applications.items() if name.startswith("tasks:")}


def _workers(app: ApplicationStatusOverview) -> int:
    return sum(sum(one.replica_states.values()) for one in app.deployments.values())
