"""Actors with real processes: state, order, names, loss, the end of their owner."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import serve_rt as serve
from serve_rt.exceptions import ActorDiedError, RequestCancelledError
from tests.cluster.processes import eventually
from tests.work import stage

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("cluster")]


@pytest.fixture
def counter() -> Iterator[Any]:
    made = stage.Counter.remote(10)
    yield made
    serve.kill(made)


def test_state_lives_over_calls_in_a_process_and_thread_of_its_own(counter: Any) -> None:
    assert serve.get(counter.add.remote(1), timeout=20) == 11
    assert serve.get(counter.add.remote(2), timeout=20) == 13
    assert serve.get(counter.pid.remote(), timeout=20) != os.getpid()
    assert serve.get([counter.always_one_thread.remote() for _ in range(20)], timeout=20) == [True] * 20

    async def main() -> int:
        return int(await counter.add.remote(1))

    assert asyncio.run(main()) == 14


def test_calls_run_in_the_order_they_were_made() -> None:
    counter = stage.Counter.remote()  # the first calls are made before the actor is
    refs = [counter.append.remote(stage.slow.remote(0)), *(counter.append.remote(n) for n in range(1, 50))]
    assert serve.get(refs[-1], timeout=30) == list(range(50)), "also behind one that waits for its argument"
    serve.kill(counter)


def test_user_errors_and_unknown_methods(counter: Any) -> None:
    with pytest.raises(LookupError, match="nothing here"):
        serve.get(counter.fail.remote("nothing here"), timeout=20)
    with pytest.raises(AttributeError, match=r"actor _Counter has no method 'ad'.*'add'"):
        _ = counter.ad
    with pytest.raises(TypeError, match=r"use add\.remote"):
        counter.add(1)


def test_a_handle_travels_to_tasks(counter: Any) -> None:
    assert serve.get([stage.add_to.remote(counter, 1) for _ in range(4)], timeout=40)
    assert serve.get(counter.add.remote(0), timeout=20) == 14


def test_async_methods_run_side_by_side() -> None:
    gate = stage.Signal.remote()
    waits = [gate.wait.remote() for _ in range(5)]
    serve.get(gate.send.remote(), timeout=20)
    assert serve.get(waits, timeout=20) == ["went on"] * 5
    serve.kill(gate)


def test_cancellation_reaches_the_method_and_the_next_waits_for_its_end(counter: Any, tmp_path: Path) -> None:
    ref = counter.until_asked.remote(str(tmp_path))
    eventually((tmp_path / "began").exists, 20, "it runs")
    behind = counter.add.remote(1)
    serve.cancel(ref)
    with pytest.raises(RequestCancelledError):
        serve.get(ref, timeout=5)
    assert serve.get(behind, timeout=20) == 11
    assert (tmp_path / "cancelled").exists()


# --- names --------------------------------------------------------------------------------------------------------


def test_names_are_found_from_other_processes_and_taken_once() -> None:
    first = stage.Counter.options(name="one").remote(5)
    assert serve.get(stage.add_by_name.remote("one", 1), timeout=30) == 6
    with pytest.raises(ValueError, match="the actor name 'one' is taken"):
        stage.Counter.options(name="one").remote(50)
    again = stage.Counter.options(name="one", get_if_exists=True).remote(50)
    assert again == first and serve.get(again.add.remote(1), timeout=20) == 7
    serve.kill(first)
    with pytest.raises(ActorDiedError, match="actor one has ended"):
        serve.get(again.add.remote(1), timeout=20)
    with pytest.raises(ValueError, match="there is no actor named 'nobody'"):
        serve.get_actor("nobody")


# --- its end ------------------------------------------------------------------------------------------------------


def test_a_killed_actor_leaves_nothing() -> None:
    counter = stage.Counter.remote()
    serve.get(counter.add.remote(), timeout=20)
    serve.kill(counter)
    with pytest.raises(ActorDiedError, match="it was killed"):
        serve.get(counter.add.remote(), timeout=20)
    eventually(lambda: counter.app_name not in serve.status().applications, 20, "its record goes, too")
    serve.kill(counter)  # twice is no error


def test_an_end_does_not_overtake_the_beginning() -> None:
    counters = [stage.Counter.options(lifetime="detached").remote() for _ in range(3)]
    for counter in counters:
        serve.kill(counter)
    names = {counter.app_name for counter in counters}
    eventually(lambda: names.isdisjoint(serve.status().applications), 20, "none of them lives")
    with pytest.raises(ActorDiedError):
        serve.get(counters[0].add.remote(), timeout=20)


def test_a_lost_process_ends_the_actor() -> None:
    counter = stage.Counter.remote()
    os.kill(serve.get(counter.pid.remote(), timeout=20), signal.SIGKILL)
    with pytest.raises(ActorDiedError):
        serve.get(counter.add.remote(), timeout=20)
    eventually(lambda: counter.app_name not in serve.status().applications, 20, "max_restarts is 0")


def test_a_restart_loses_the_state_and_says_so() -> None:
    counter = stage.Counter.options(max_restarts=1).remote(10)
    assert serve.get(counter.add.remote(1), timeout=20) == 11
    running = counter.until_asked.remote("/nowhere")  # fails there, but the actor has begun to serve it
    os.kill(serve.get(counter.pid.remote(), timeout=20), signal.SIGKILL)
    with pytest.raises((ActorDiedError, FileNotFoundError)):
        serve.get(running, timeout=20)

    def answers() -> bool:
        try:
            return bool(serve.get(counter.add.remote(1), timeout=20) == 11)  # from its constructor
        except ActorDiedError as error:
            assert "its state is gone" in str(error)
            return False

    eventually(answers, 20, "it was started again")
    serve.kill(counter)


def test_a_constructor_that_fails_is_told_to_every_caller() -> None:
    broken = stage.Broken.remote()
    for _ in range(2):
        with pytest.raises(ActorDiedError, match=r"(?s)its constructor failed.*the weights are missing"):
            serve.get(broken.method.remote(), timeout=30)
    serve.kill(broken)


@pytest.mark.parametrize("how", ["ends", "is killed"])
def test_an_actor_ends_with_its_owner_unless_detached(cluster: Path, how: str) -> None:
    program = [sys.executable, "-c", stage.OWNER]
    env = {**os.environ, "SERVE_STATE_DIR": str(cluster)}
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as owner:
        try:
            assert owner.stdout is not None
            one, two, app = owner.stdout.readline().split()
            assert (one, two) == ("2", "3")
            assert app in serve.status().applications
        finally:
            owner.kill() if how == "is killed" or owner.stdin is None else owner.stdin.close()
            owner.wait(20)
    eventually(lambda: app not in serve.status().applications, 20, "it went with its owner")
    stays = serve.get_actor("stays")
    assert serve.get(stays.add.remote(1), timeout=20) == 4
    serve.kill(stays)
    eventually(lambda: stays.app_name not in serve.status().applications, 20, "the name is free again")
