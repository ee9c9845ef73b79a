"""The life of one replica on its node, as pure functions of values: what happened, and what to do next.

`supervisor` feeds in what it sees (`spawned`, `reported`, `exited`, …: Record in, Record out) and asks `decide` for the
next actions. Nothing here waits, forks or reads a clock. A promise is a state: `Process.SPAWNING` and `Process.KILLING`
are written down before anything is awaited, so that asking twice gives nothing twice.

Who may do what: which replicas exist is the leader's word (the Assignment); starting, restarting and killing the
process of an assignment is this node's alone. A restart keeps replica id, devices and port and raises `incarnation`.
"""

from __future__ import annotations

import enum
import random
from dataclasses import dataclass, replace

from serve_rt.model.ids import ReplicaId
from serve_rt.model.replica import REPLICA_TRANSITIONS, Assignment, Goal, ReplicaState
from serve_rt.model.transitions import Transitions, move

BACKOFF_S = (0.1, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
STABLE_AFTER_S = 60.0
"""A replica that was ready for so long starts its back-off anew."""
KEPT_HISTORY = 12
MAX_MESSAGE_CHARS = 8192


class Process(enum.Enum):
    """What the node has of an incarnation's process."""

    NONE = "NONE"
    SPAWNING = "SPAWNING"
    RUNNING = "RUNNING"
    KILLING = "KILLING"
    """Told to end at once, or dead with its group not yet swept: no new one before that is done."""


PROCESS_TRANSITIONS: Transitions[Process] = {
    Process.NONE: frozenset({Process.SPAWNING, Process.RUNNING}),
    Process.SPAWNING: frozenset({Process.RUNNING, Process.NONE, Process.KILLING}),
    Process.RUNNING: frozenset({Process.KILLING, Process.NONE}),
    Process.KILLING: frozenset({Process.NONE}),
}


@dataclass(frozen=True, slots=True)
class Record:
    replica_id: ReplicaId
    state: ReplicaState = ReplicaState.BACKOFF
    process: Process = Process.NONE
    incarnation: int = 0
    pid: int = 0
    restarts: int = 0
    failures: int = 0
    """Ends in a row without a stable time between them: the index into BACKOFF_S."""
    constructor_failures: int = 0
    constructor_failed: bool = False
    """The running incarnation has reported that its constructor raised."""
    not_before: float = 0.0
    """The next incarnation may start then."""
    since: float = 0.0
    """When `state` was entered."""
    drain_until: float | None = None
    message: str = ""
    history: tuple[str, ...] = ()

    @property
    def gone(self) -> bool:
        return self.process is Process.NONE


@dataclass(frozen=True, slots=True)
class Start:
    incarnation: int


@dataclass(frozen=True, slots=True)
class Drain:
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Kill:
    reason: str
    stacks: bool = False
    """It took too long: its stacks are looked at first, and told."""


@dataclass(frozen=True, slots=True)
class Settle:
    """Nothing of it runs any more and nothing shall: its observed record goes."""


@dataclass(frozen=True, slots=True)
class Forget:
    """Its assignment is gone as well: drop every trace."""


Action = Start | Drain | Kill | Settle | Forget


def decide(assignment: Assignment | None, record: Record, now: float) -> tuple[Action, ...]:
    """What to do about one replica. `assignment` is None when the leader has surely withdrawn it."""
    if assignment is None or assignment.goal is Goal.DRAIN:
        return _decide_end(assignment, record, now)
    if record.process is Process.RUNNING:
        return _decide_running(assignment, record, now)
    if record.process is Process.NONE and record.state is ReplicaState.BACKOFF and now >= record.not_before:
        return (Start(record.incarnation + 1),)
    return ()


def next_due(assignment: Assignment | None, record: Record) -> float | None:
    """When `decide` may answer something else without any event."""
    if record.drain_until is not None and record.process is Process.RUNNING:
        return record.drain_until
    if record.process is Process.NONE and record.state is ReplicaState.BACKOFF:
        return record.not_before
    if record.process is Process.RUNNING and record.state is ReplicaState.STARTING and assignment is not None:
        return record.since + assignment.spec.options.startup_timeout_s
    return None


def _decide_end(assignment: Assignment | None, record: Record, now: float) -> tuple[Action, ...]:
    if record.process is Process.NONE:
        end: Action = Forget() if assignment is None else Settle()
        return (end,) if assignment is None or record.state is not ReplicaState.STOPPED else ()
    if record.process is not Process.RUNNING:
        return ()  # it comes back here when the spawn or the kill has ended
    if record.state is not ReplicaState.DRAINING:
        return (Drain(_drain_s(assignment, record)),)
    if record.drain_until is not None and now >= record.drain_until:
        return (Kill("it did not end within its drain time"),)
    return ()


def _drain_s(assignment: Assignment | None, record: Record) -> float:
    if record.state is ReplicaState.STARTING or assignment is None:
        return 20.0 if record.state is not ReplicaState.STARTING else 2.0
    return assignment.spec.options.graceful_shutdown_timeout_s


def _decide_running(assignment: Assignment, record: Record, now: float) -> tuple[Action, ...]:
    limit_s = assignment.spec.options.startup_timeout_s
    if record.state is ReplicaState.STARTING and now - record.since >= limit_s:
        return (Kill(f"it was not ready within startup_timeout_s={limit_s:g}", stacks=True),)
    return ()


# --- what happened ------------------------------------------------------------------------------------------------


def spawning(record: Record, incarnation: int, now: float) -> Record:
    record = _enter(record, ReplicaState.STARTING, now, f"start {incarnation}")
    restarts = record.restarts + (1 if incarnation > 1 else 0)
    return replace(
        _process(record, Process.SPAWNING),
        incarnation=incarnation,
        restarts=restarts,
        constructor_failed=False,
        pid=0,
    )


def spawned(record: Record, pid: int) -> Record:
    return replace(_process(record, Process.RUNNING), pid=pid)


def not_spawned(record: Record, message: str, now: float) -> Record:
    """The process could not even be made (a blob is missing, no port is free)."""
    return _back_off(replace(_process(record, Process.NONE), message=message), now, f"not spawned: {message[:80]}")


def adopted(record: Record, pid: int, now: float) -> Record:
    """A process that a former agent started, found alive. It keeps the state last written until it says otherwise."""
    state = record.state
    if state in (ReplicaState.BACKOFF, ReplicaState.STOPPED, ReplicaState.FAILED):
        state = ReplicaState.STARTING  # the former agent died between the fork and its note
    drain_until = now + 20.0 if state is ReplicaState.DRAINING else None
    return replace(
        record,
        state=state,
        process=Process.RUNNING,
        pid=pid,
        since=now,
        drain_until=drain_until,
        history=_remember(record.history, f"adopted as {state.name}"),
    )


def ready(record: Record, now: float) -> Record:
    """Its constructor and first check passed. A late report of a replica that drains changes nothing."""
    if record.state not in (ReplicaState.STARTING, ReplicaState.UNHEALTHY):
        return record
    return replace(_enter(record, ReplicaState.READY, now, "ready"), constructor_failures=0, message="")


def constructor_raised(record: Record, traceback: str) -> Record:
    """The exit follows by itself; the traceback must outlive it."""
    return replace(record, constructor_failed=True, message=traceback[-MAX_MESSAGE_CHARS:])


def draining(record: Record, timeout_s: float, now: float) -> Record:
    record = _enter(record, ReplicaState.DRAINING, now, f"drain {timeout_s:g} s")
    return replace(record, drain_until=now + timeout_s + 2.0)


def killing(record: Record, reason: str) -> Record:
    history = _remember(record.history, f"kill: {reason}")
    return replace(_process(record, Process.KILLING), message=reason, history=history)


def out_of_rotation(record: Record, reason: str, now: float) -> Record:
    if record.state is not ReplicaState.READY:
        return record
    return replace(_enter(record, ReplicaState.UNHEALTHY, now, reason), message=reason)


def died(record: Record, how: str, max_constructor_retries: int, now: float) -> Record:
    """The process is dead; its group may not be swept yet, so the process is KILLING until `swept`."""
    told = record.process is Process.KILLING or record.constructor_failed
    message = record.message if told and record.message else how
    record = replace(record, process=Process.KILLING, pid=0)
    if record.state is ReplicaState.DRAINING:
        return replace(record, history=_remember(record.history, how), drain_until=None)
    if record.state is ReplicaState.STARTING:
        return _start_failed(record, message, max_constructor_retries, now)
    if record.state is ReplicaState.READY and now - record.since >= STABLE_AFTER_S:
        record = replace(record, failures=0)
    return _back_off(replace(record, message=message), now, how)


def swept(record: Record, now: float) -> Record:
    """The whole former process group is gone."""
    record = replace(record, process=Process.NONE)
    return _enter(record, ReplicaState.STOPPED, now, "gone") if record.state is ReplicaState.DRAINING else record


def device_lost(record: Record, reason: str, now: float) -> Record:
    """Its device did not get free: no next incarnation here, the leader replaces it elsewhere."""
    if record.state is not ReplicaState.BACKOFF:
        return record
    return replace(_enter(record, ReplicaState.FAILED, now, reason), message=reason)


def is_wanted_again(assignment: Assignment, record: Record) -> bool:
    """It was drained because the node began to leave, and the node stayed after all (its agent died over it)."""
    return assignment.goal is Goal.RUN and record.state is ReplicaState.STOPPED and record.gone


def renewed(record: Record) -> Record:
    """A life after STOPPED, under the same id; incarnations go on counting."""
    history = _remember(record.history, "wanted again")
    return Record(record.replica_id, incarnation=record.incarnation, restarts=record.restarts, history=history)


def settled(record: Record, now: float) -> Record:
    return replace(_enter(record, ReplicaState.STOPPED, now, "stopped"), drain_until=None)


def _start_failed(record: Record, message: str, max_retries: int, now: float) -> Record:
    count = record.constructor_failures + 1
    record = replace(record, constructor_failures=count, message=message)
    if count < max(1, max_retries):
        return _back_off(record, now, f"start failed ({count})")
    return _enter(record, ReplicaState.FAILED, now, f"given up after {count} failed starts")


def _back_off(record: Record, now: float, why: str) -> Record:
    delay = BACKOFF_S[min(record.failures, len(BACKOFF_S) - 1)]
    if record.failures:
        delay *= random.uniform(0.8, 1.2)  # jitter: replicas that died together need not start together
    record = _enter(record, ReplicaState.BACKOFF, now, why)
    return replace(record, failures=record.failures + 1, not_before=now + delay)


def _enter(record: Record, state: ReplicaState, now: float, why: str) -> Record:
    moved = move(REPLICA_TRANSITIONS, record.state, state, record.replica_id, record.history)
    history = _remember(record.history, f"{state.name} ({why})")
    return replace(record, state=moved, since=now if moved is not record.state else record.since, history=history)


def _process(record: Record, process: Process) -> Record:
    return replace(
        record, process=move(PROCESS_TRANSITIONS, record.process, process, record.replica_id, record.history)
    )


def _remember(history: tuple[str, ...], event: str) -> tuple[str, ...]:
    return (*history, event)[-KEPT_HISTORY:]
