"""What /proc says: which process is meant, what belongs to it, who it left behind.

A pid alone is no name: it is reused. A ProcessRef (pid, start time, boot) is one, and signals go through a pidfd that
was compared with it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ProcStat:
    pid: int
    state: str
    parent: int
    session: int
    start_ticks: int


@dataclass(frozen=True, slots=True)
class ProcessRef:
    pid: int
    start_ticks: int
    boot_id: str

    @staticmethod
    def of(pid: int) -> ProcessRef | None:
        stat = stat_of(pid)
        return ProcessRef(pid, stat.start_ticks, boot_id()) if stat is not None else None

    def alive(self) -> bool:
        """A zombie is not alive."""
        if self.pid <= 0 or self.boot_id != boot_id():
            return False
        stat = stat_of(self.pid)
        return stat is not None and stat.start_ticks == self.start_ticks and stat.state not in "ZX"

    def open(self) -> int | None:
        """A pidfd of exactly this process. *Resources*: the caller closes it."""
        if self.pid <= 0:
            return None
        try:
            fd = os.pidfd_open(self.pid)
        except OSError:
            return None
        if self.alive():  # looked at after the open: the fd names whoever has the pid now
            return fd
        os.close(fd)
        return None

    def signal(self, signum: int) -> bool:
        """Whether it was there to get it."""
        fd = self.open()
        if fd is None:
            return False
        try:
            signal.pidfd_send_signal(fd, signum)
        except ProcessLookupError:
            return False
        finally:
            os.close(fd)
        return True


@cache
def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def stat_of(pid: int) -> ProcStat | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except OSError:
        return None
    if b")" not in text:  # it ended between the open and the read
        return None
    fields = text[text.rindex(b")") + 2 :].split()  # the name in parentheses may hold spaces and parentheses
    return ProcStat(pid, fields[0].decode(), int(fields[1]), int(fields[3]), int(fields[19]))


def all_processes() -> Iterator[ProcStat]:
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            stat = stat_of(int(entry))
            if stat is not None:
                yield stat


def thread_count() -> int:
    """Of this process."""
    return len(os.listdir("/proc/self/task"))


def open_devices() -> list[str]:
    """GPU devices this process holds open."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue
        if target.startswith(("/dev/nvidia", "/dev/kfd", "/dev/dri/")):
            found.append(target)
    return found


@dataclass(frozen=True, slots=True)
class Told:
    """How a process was started, as its memory says."""

    environment: bytes
    command: bytes


def told_of(pid: int) -> Told | None:
    """None while the process is in the middle of an exec: it has no memory to read from, and will have some soon.

    Its new command line and environment appear together; a second look tells an empty environment from an early one.
    """
    environment, command = _read(f"/proc/{pid}/environ"), _read(f"/proc/{pid}/cmdline")
    if not environment:
        environment = _read(f"/proc/{pid}/environ")
    return Told(environment, command) if environment or command else None


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""
