"""What agent and launcher tell each other about processes, and what a handle file holds.

A Handle is written before its process may run and is removed by `forget` only: between the two it outlives agent and
launcher, and says to the next ones what runs here and how it was started. Its `exited` is set when the end was seen.
"""

from __future__ import annotations

import enum
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from serve_rt.agents.launcher.processes import ProcessRef


class ProcessKind(enum.Enum):
    ETCD = "etcd"
    CONTROLLER = "controller"
    PROXY = "proxy"
    REPLICA = "replica"


@dataclass(frozen=True, slots=True)
class SpawnSpec:
    """How to start one process. Either `entry` (forked, `module:function` called with `start`) or `argv` (executed)."""

    kind: ProcessKind
    name: str
    incarnation: int
    entry: str = ""
    start: dict[str, Any] = field(default_factory=dict)  # Any: JSON, read by the entry alone
    argv: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    unset_env: tuple[str, ...] = ()
    cwd: str = ""
    sys_path: tuple[str, ...] = ()
    """Put first."""
    threads: int = 1
    log_path: str = ""
    title: str = ""
    http_slot: int | None = None
    """Inherit this slot's listening socket; its descriptor is put into start["socket_fd"]."""

    @property
    def key(self) -> tuple[str, int]:
        return (self.name, self.incarnation)


@dataclass(frozen=True, slots=True)
class Exit:
    """The end of a process. Both codes None: it ended unseen, while no launcher of ours was its parent."""

    name: str
    kind: ProcessKind
    incarnation: int
    returncode: int | None = None
    signal: int | None = None
    at_s: float = 0.0
    reason: str = ""

    @staticmethod
    def unseen(name: str, kind: ProcessKind, incarnation: int) -> Exit:
        """Of a process that nobody could watch."""
        return Exit(name, kind, incarnation, reason="it ended unseen")

    def describe(self) -> str:
        if self.signal is not None:
            try:
                return f"killed by {signal.Signals(self.signal).name}"
            except ValueError:
                return f"killed by signal {self.signal}"
        if self.returncode is not None:
            return f"exit code {self.returncode}"
        return self.reason or "it ended, how is not known"


@dataclass(frozen=True, slots=True)
class Handle:
    kind: ProcessKind
    name: str
    incarnation: int
    spec: SpawnSpec
    pid: int = 0
    """0 while reserved: no process has run yet."""
    start_ticks: int = 0
    boot_id: str = ""
    started_at_s: float = 0.0
    exited: Exit | None = None
    schema: int = 1

    @property
    def key(self) -> tuple[str, int]:
        return (self.name, self.incarnation)

    @property
    def process(self) -> ProcessRef:
        return ProcessRef(self.pid, self.start_ticks, self.boot_id)

    def alive(self) -> bool:
        return self.exited is None and self.process.alive()


@dataclass(frozen=True, slots=True)
class LauncherStatus:
    pid: int
    state: str
    """"warm", or "learning" while a new fork parent imports what constructors imported."""
    running: int = 0
    learned: int = 0
    """Modules the present fork parent of replicas has preloaded."""
    bad: tuple[str, ...] = ()
    """Modules that must not be preloaded."""
    generation: int = 0
    """Of the present fork parent of replicas; 0: nothing learned."""
    nursery_pids: tuple[int, ...] = ()
