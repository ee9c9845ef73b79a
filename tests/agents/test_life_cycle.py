"""The life of one replica, told as what happens and what is then done. No clock, no process."""

from __future__ import annotations

from dataclasses import replace

import pytest

from serve_rt.agents import life_cycle as life
from serve_rt.agents.life_cycle import Drain, Forget, Kill, Process, Record, Settle, Start, decide, next_due
from serve_rt.errors import InvalidTransition
from serve_rt.model.replica import Goal, ReplicaState
from tests.agents.values import REPLICA, assignment

NEW = Record(REPLICA)


def running(now: float = 0.0, state: ReplicaState = ReplicaState.STARTING) -> Record:
    record = life.spawned(life.spawning(NEW, 1, now), pid=77)
    return life.ready(record, now) if state is ReplicaState.READY else record


def test_a_new_assignment_is_started_once() -> None:
    assert decide(assignment(), NEW, 0.0) == (Start(1),)
    assert decide(assignment(), life.spawning(NEW, 1, 0.0), 0.0) == ()
    assert decide(assignment(), running(), 1.0) == ()


def test_a_killed_replica_is_restarted_at_once_but_not_before_its_group_is_swept() -> None:
    dead = life.died(running(5.0, ReplicaState.READY), "killed by SIGKILL", 20, 10.0)
    assert dead.state is ReplicaState.BACKOFF
    assert dead.process is Process.KILLING
    assert decide(assignment(), dead, 99.0) == (), "its group is not swept yet"
    gone = life.swept(dead, 10.05)
    assert decide(assignment(), gone, 10.05) == ()
    assert next_due(assignment(), gone) == pytest.approx(10.1)
    assert decide(assignment(), gone, 10.1) == (Start(2),)


def test_back_off_grows_with_each_crash_and_starts_anew_after_a_stable_time() -> None:
    record, now = NEW, 0.0
    delays = []
    for incarnation in range(1, 6):
        record = life.ready(life.spawned(life.spawning(record, incarnation, now), 1), now)
        record = life.swept(life.died(record, "crash", 20, now), now)
        delays.append(record.not_before - now)
        now = record.not_before
    assert delays == sorted(delays)
    assert delays[0] == pytest.approx(0.1)
    assert delays[-1] > 5.0
    stable = life.ready(life.spawned(life.spawning(record, 9, now), 1), now)
    late = now + life.STABLE_AFTER_S + 1.0  # not at the very edge: the sum of jittered delays is rounded
    assert life.died(stable, "crash", 20, late).not_before - late == pytest.approx(0.1)


def test_a_constructor_that_raises_is_given_up_with_its_last_traceback() -> None:
    record, now = NEW, 0.0
    for incarnation in (1, 2, 3):
        assert decide(assignment(), record, record.not_before) == (Start(incarnation),)
        record = life.spawned(life.spawning(record, incarnation, now), 1)
        record = life.constructor_raised(record, f"ValueError: {incarnation}")
        record = life.swept(life.died(record, "exit code 1", 3, now), now)
    assert record.state is ReplicaState.FAILED
    assert record.message == "ValueError: 3"
    assert decide(assignment(), record, 1e9) == ()


def test_an_exit_without_a_word_tells_how_it_ended() -> None:
    record = life.died(running(), "exit code 3", 20, 1.0)
    assert record.message == "exit code 3"
    assert record.constructor_failures == 1


def test_success_forgets_failed_starts() -> None:
    record = life.swept(life.died(running(), "exit code 3", 20, 1.0), 1.0)
    record = life.ready(life.spawned(life.spawning(record, 2, 2.0), 1), 2.0)
    assert (record.constructor_failures, record.message, record.restarts) == (0, "", 1)


def test_a_start_that_takes_too_long_is_killed() -> None:
    slow = assignment(startup_timeout_s=30.0)
    assert decide(slow, running(0.0), 29.9) == ()
    assert next_due(slow, running(0.0)) == pytest.approx(30.0)
    [action] = decide(slow, running(0.0), 30.0)
    assert isinstance(action, Kill)
    assert "startup_timeout_s=30" in action.reason


def test_drain_then_settle_then_forget() -> None:
    draining = assignment(goal=Goal.DRAIN)
    record = running(0.0, ReplicaState.READY)
    assert decide(draining, record, 1.0) == (Drain(20.0),)
    record = life.draining(record, 20.0, 1.0)
    assert decide(draining, record, 5.0) == ()
    record = life.swept(life.died(record, "exit code 0", 20, 6.0), 6.0)
    assert record.state is ReplicaState.STOPPED
    assert decide(draining, record, 7.0) == (), "the leader now deletes the assignment"
    assert decide(None, record, 8.0) == (Forget(),)


def test_a_drain_that_does_not_end_is_killed() -> None:
    record = life.draining(running(0.0, ReplicaState.READY), 20.0, 0.0)
    [action] = decide(assignment(goal=Goal.DRAIN), record, 22.0)
    assert isinstance(action, Kill)


def test_a_withdrawn_replica_is_drained_not_killed() -> None:
    assert isinstance(decide(None, running(0.0, ReplicaState.READY), 1.0)[0], Drain)


def test_an_assignment_to_drain_that_never_ran_is_settled_without_a_start() -> None:
    assert decide(assignment(goal=Goal.DRAIN), NEW, 0.0) == (Settle(),)
    settled = life.settled(NEW, 0.0)
    assert decide(assignment(goal=Goal.DRAIN), settled, 1.0) == ()


def test_an_adopted_replica_keeps_its_state() -> None:
    was_ready = replace(NEW, state=ReplicaState.READY, incarnation=4)
    record = life.adopted(was_ready, pid=5, now=100.0)
    assert (record.state, record.process, record.incarnation) == (ReplicaState.READY, Process.RUNNING, 4)
    assert decide(assignment(), record, 100.0) == ()


def test_a_late_ready_of_a_draining_replica_changes_nothing() -> None:
    record = life.draining(running(), 1.0, 0.0)
    assert life.ready(record, 1.0) is record


def test_what_the_node_drained_in_vain_is_started_again() -> None:
    record = life.draining(running(0.0, ReplicaState.READY), 20.0, 1.0)
    record = life.swept(life.died(record, "exit code 0", 20, 6.0), 6.0)
    assert life.is_wanted_again(assignment(), record)
    assert not life.is_wanted_again(assignment(goal=Goal.DRAIN), record)
    assert decide(assignment(), life.renewed(record), 7.0) == (Start(2),)


def test_an_illegal_move_tells_the_history() -> None:
    failed = replace(NEW, state=ReplicaState.FAILED, history=("READY (ready)", "FAILED (given up)"))
    with pytest.raises(InvalidTransition, match="given up"):
        life.spawning(failed, 3, 0.0)
