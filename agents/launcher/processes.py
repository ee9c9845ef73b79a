"""Questions to /proc and the kernel about processes. Linux only, no state."""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_SYS_PIDFD_GETFD = 438


@dataclass(frozen=True, slots=True)
class ProcessStat:
    pid: int
    state: str
    ppid: int
    session: int
    start_ticks: int


@functools.cache
def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def read_stat(pid: int) -> ProcessStat | None:
    """None when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()  # the name before may hold anything, also ")"
    return ProcessStat(pid, fields[0], int(fields[1]), int(fields[3]), int(fields[19]))


def start_ticks(pid: int) -> int:
    """When the process began, in clock ticks since boot; 0 when it is gone or a zombie."""
    stat = read_stat(pid)
    return stat.start_ticks if stat is not None and stat.state not in "ZX" else 0


def all_processes() -> Iterator[ProcessStat]:
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (stat := read_stat(int(entry))) is not None:
            yield stat


def members(session: int) -> list[int]:
    """The living processes of a session."""
    return [stat.pid for stat in all_processes() if stat.session == session and stat.state not in "ZX"]


def kill_session(session: int, timeout_s: float = 2.0) -> bool:
    """SIGKILL every process of the session, also those it forks meanwhile; true when none is left."""
    give_up = time.monotonic() + timeout_s
    while pids := members(session):
        for pid in pids:
            kill(pid, signal.SIGKILL)
        if time.monotonic() >= give_up:
            return False
        time.sleep(0.002)
    return True


def kill(pid: int, signum: int) -> bool:
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        return False
    return True


def become_subreaper() -> None:
    """What our children leave behind becomes our child instead of init's."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def take_descriptor(pid: int, fd: int) -> int:
    """A duplicate of another process's descriptor (pidfd_getfd(2)). *Errors*: OSError when that is not allowed."""
    pidfd = os.pidfd_open(pid)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        taken = libc.syscall(_SYS_PIDFD_GETFD, pidfd, fd, 0)
        if taken < 0:
            raise OSError(ctypes.get_errno(), f"pidfd_getfd({pid}, {fd})")
        return int(taken)
    finally:
        os.close(pidfd)


def thread_count() -> int:
    return len(os.listdir("/proc/self/task"))


def opened_gpus() -> list[str]:
    """GPU device files this process has open."""
    opened = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue
        if target.startswith(("/dev/nvidia", "/dev/kfd", "/dev/dri/render")):
            opened.append(target)
    return opened
