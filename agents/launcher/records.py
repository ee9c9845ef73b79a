"""The launcher's words: what to start (SpawnSpec), what was started (Handle), how it ended (Exit).

A Handle is also the JSON text of a handle file: it identifies a process for ever by pid, start time and boot, so that a
reused pid is never mistaken for the process it once named.
"""

from __future__ import annotations

import enum
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from serve_rt.agents.launcher import processes


class ProcessKind(enum.Enum):
    ETCD = "ETCD"
    CONTROLLER = "CONTROLLER"
    PROXY = "PROXY"
    REPLICA = "REPLICA"


@dataclass(frozen=True, slots=True)
class SpawnSpec:
    """One process to start: either `entry` ("module:function", called with `start` in a fork) or `argv` (exec)."""

    kind: ProcessKind
    name: str
    incarnation: int
    entry: str = ""
    start: Mapping[str, Any] = field(default_factory=dict)
    argv: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    unset_env: tuple[str, ...] = ()
    cwd: str = "/"
    sys_path: tuple[str, ...] = ()
    """Put before everything else on the child's sys.path."""
    threads: int = 1
    """How many threads BLAS, OpenMP and torch may use."""
    log_path: str = ""
    title: str = ""
    http_slot: int | None = None
    """The child inherits this worker slot's listening socket; its number goes into `start["socket_fd"]`."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended; both codes are None when nobody could see it (its parent had died before)."""

    name: str
    kind: ProcessKind
    incarnation: int
    returncode: int | None = None
    signal: int | None = None
    at_s: float = 0.0
    """Wall clock, for display."""

    @staticmethod
    def unseen(name: str, kind: ProcessKind, incarnation: int) -> Exit:
        return Exit(name, kind, incarnation)

    def describe(self) -> str:
        if self.signal is not None:
            try:
                return f"killed by {signal.Signals(self.signal).name}"
            except ValueError:
                return f"killed by signal {self.signal}"
        if self.returncode is not None:
            return f"exited with code {self.returncode}"
        return "ended unseen"


@dataclass(frozen=True, slots=True)
class Handle:
    kind: ProcessKind
    name: str
    incarnation: int
    pid: int
    """0 while only reserved: the fork is still to come."""
    start_ticks: int
    """Field 22 of /proc/PID/stat."""
    boot_id: str
    spec: SpawnSpec
    started_at_s: float
    exited: Exit | None = None
    schema: int = 1

    def alive(self) -> bool:
        """True while the very process this handle names exists (a zombie does not count)."""
        return (
            self.exited is None
            and self.pid > 0
            and self.boot_id == processes.boot_id()
            and processes.start_ticks(self.pid) == self.start_ticks
        )


class LauncherState(enum.StrEnum):
    WARM = "warm"
    LEARNING = "learning"


@dataclass(frozen=True, slots=True)
class LauncherStatus:
    pid: int
    state: str
    """`learning` while a nursery imports what constructors needed, else `warm`."""
    preloaded: int = 0
    """Modules that replicas find imported."""
    bad: tuple[str, ...] = ()
    """Modules that cannot be preloaded: they start threads or open a GPU."""
