"""What a process leaves behind is killed: its session, its descendants, and orphans that bear its mark.

Called by `children` when a process ended, and for `kill_group`. The launcher is a child subreaper, so whatever a dead
replica leaves becomes the launcher's child. Whose it was is told by, in this order: its session; the mark in its
environment (programs); the title it inherited (forks of replicas); or that no other living replica is old enough to be
its parent.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterable

from serve_rt.agents.launcher.child import MARKER, marker_of
from serve_rt.agents.launcher.processes import (
    ProcessRef,
    ProcStat,
    Told,
    all_processes,
    boot_id,
    told_of,
)
from serve_rt.agents.launcher.reactor import Deadline
from serve_rt.agents.launcher.records import Handle, ProcessKind

log = logging.getLogger(__name__)
SWEEP_S = 10.0


class Sweep:
    """Polled until it is `done`: each time, what is still there is killed again."""

    def __init__(
        self,
        handle: Handle,
        *,
        is_over: Callable[[], bool],
        living: Callable[[], list[Handle]],
        ours: Callable[[], set[int]],
        ours_by_birth: bool,
        on_clean: Callable[[], object],
    ) -> None:
        self.handle = handle
        self.left: list[ProcStat] = []
        self._unclear = False
        """An orphan is between two programs: whose it is can be read in a moment."""
        self._is_over, self._living, self._ours, self._on_clean = is_over, living, ours, on_clean
        self._ours_by_birth = ours_by_birth
        self._deadline = Deadline(SWEEP_S)

    def done(self) -> bool:
        """True when nothing is left, or after SWEEP_S (then `left` says what)."""
        self.left = self._look()
        for stat in self.left:
            ProcessRef(stat.pid, stat.start_ticks, boot_id()).signal(signal.SIGKILL)
        if not self.left and not self._unclear and self._is_over():
            self._on_clean()
            return True
        if self._deadline.passed:
            log.error(
                "%d processes of %s do not end",
                len(self.left),
                self.handle.name,
                extra={"action": "sweep_incomplete", "pids": [stat.pid for stat in self.left]},
            )
            return True
        return False

    def _look(self) -> list[ProcStat]:
        if self.handle.boot_id != boot_id():
            return []
        asked: dict[int, Told | None] = {}

        def told(pid: int) -> Told | None:
            asked[pid] = told_of(pid)
            return asked[pid]

        processes = list(all_processes())
        left = left_behind(self.handle, processes, self._living(), self._ours(), self._ours_by_birth, told)
        self._unclear = any(asked.get(stat.pid, "") is None and stat.state not in "ZX" for stat in processes)
        return left


def left_behind(
    handle: Handle,
    processes: Iterable[ProcStat],
    living: Iterable[Handle],
    ours: set[int],
    ours_by_birth: bool = True,
    told: Callable[[int], Told | None] = told_of,
) -> list[ProcStat]:
    """What belongs to the process of `handle`, itself included; zombies are for their parents.

    Orphans of a process that is ours by birth are our children; those of an adopted one may have gone anywhere.
    """
    living = list(living)
    by_pid = {stat.pid: stat for stat in processes}
    root = by_pid.get(handle.pid)
    if root is not None and root.start_ticks != handle.start_ticks:
        root = None
    session_is_ours = root is not None or handle.pid not in by_pid  # else a stranger has the pid, and its session
    protected = {other.pid for other in living} | ours | {os.getpid()}
    others = [other for other in living if other.kind is ProcessKind.REPLICA]
    found = {root.pid} if root is not None else set()
    for stat in by_pid.values():
        if stat.pid in protected or stat.start_ticks < handle.start_ticks:
            continue
        in_session = session_is_ours and stat.session == handle.pid
        if in_session or ((stat.parent == os.getpid() or not ours_by_birth) and _was_its(handle, stat, others, told)):
            found.add(stat.pid)
    return [by_pid[pid] for pid in _with_descendants(found, by_pid) - protected if by_pid[pid].state not in "ZX"]


def _was_its(handle: Handle, orphan: ProcStat, others: list[Handle], told_of_pid: Callable[[int], Told | None]) -> bool:
    if any(orphan.session == other.pid for other in others):
        return False
    told = told_of_pid(orphan.pid)
    if told is None:
        return False
    variables = told.environment.split(b"\0")
    marks = [variable for variable in variables if variable.startswith(MARKER.encode() + b"=")]
    if marks:
        mine = marker_of(handle.name, handle.incarnation, handle.pid, handle.start_ticks)
        return marks[0] == f"{MARKER}={mine}".encode()
    if handle.kind is not ProcessKind.REPLICA:
        return (
            False  # `serve-rt proxy 0` is the title of every node's first proxy, also of another node on this machine
        )
    title = handle.spec.title.encode()
    command = told.command.rstrip(b"\0 ")
    if title and command == title:
        return True
    if any(other.spec.title and command == other.spec.title.encode() for other in others):
        return False
    # Only our own children can be told by age: below process 1 there are strangers.
    alone = not any(other.start_ticks <= orphan.start_ticks for other in others)
    return alone and orphan.parent == os.getpid()


def _with_descendants(roots: set[int], by_pid: dict[int, ProcStat]) -> set[int]:
    children: dict[int, list[int]] = {}
    for stat in by_pid.values():
        children.setdefault(stat.parent, []).append(stat.pid)
    found: set[int] = set()
    open_ = list(roots)
    while open_:
        pid = open_.pop()
        if pid not in found:
            found.add(pid)
            open_ += children.get(pid, [])
    return found
