"""What /proc and the handle files say about the processes of a cluster. Nothing is ever looked up by name."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

T = TypeVar("T")
POLL_S = 0.02


def eventually(look: Callable[[], T | Literal[False] | None], timeout_s: float, what: str) -> T:
    """The first truthy value of `look`, which is asked until then.

    *Errors*: AssertionError saying what did not happen, and the last thing seen.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what} (last seen: {seen!r})")
        time.sleep(POLL_S)


@dataclass(frozen=True, slots=True)
class Stat:
    state: str
    start_ticks: int
    parent: int


def stat_of(pid: int) -> Stat | None:
    """None when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return Stat(fields[0], int(fields[19]), int(fields[1]))


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process that cannot be mistaken for a later one with the same pid."""

    pid: int
    start_ticks: int

    @staticmethod
    def of(pid: int) -> ProcessId:
        stat = stat_of(pid)
        assert stat is not None, f"no process {pid}"
        return ProcessId(pid, stat.start_ticks)

    def alive(self) -> bool:
        stat = stat_of(self.pid)
        return stat is not None and stat.start_ticks == self.start_ticks and stat.state not in "ZX"

    def stopped(self) -> bool:
        stat = stat_of(self.pid)
        return stat is not None and stat.start_ticks == self.start_ticks and stat.state in "Tt"

    def signal(self, signum: int) -> None:
        assert self.alive(), f"process {self.pid} is gone already"
        os.kill(self.pid, signum)

    def kill_if_alive(self) -> None:
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class HandleFile:
    kind: str
    name: str
    incarnation: int
    process: ProcessId
    address: str = ""
    """host:port, of what listens on one."""

    @property
    def key(self) -> tuple[str, int, ProcessId]:
        return (self.name, self.incarnation, self.process)


def handle_files(state_dir: Path) -> list[HandleFile]:
    """The living processes of a node, as its launcher wrote them down."""
    found = []
    for path in sorted((state_dir / "handles").rglob("*.json")):
        try:
            record = json.loads(path.read_text())
        except (OSError, ValueError):
            continue  # being written or removed just now
        if not record.get("pid"):
            continue  # reserved, not forked yet
        process = ProcessId(int(record["pid"]), int(record.get("start_ticks") or 0))
        if process.alive():
            kind = str(record["kind"]).lower()
            start = record.get("spec", {}).get("start", {})
            address = f"{start['host']}:{start['port']}" if start.get("port") else ""
            found.append(HandleFile(kind, str(record["name"]), int(record["incarnation"]), process, address))
    return found


def listener_pid(unix_socket: Path) -> int:
    """Who listens on a Unix socket: the kernel says so to whoever connects."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(str(unix_socket))
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid: int = struct.unpack("3i", credentials)[0]
    return pid


def processes_of(folder: Path) -> Iterator[tuple[ProcessId, str]]:
    """Processes that have to do with a state dir: by argument, environment, working directory or open file."""
    marker = os.fsencode(folder)
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        stat = stat_of(int(entry.name))
        if stat is None or stat.state in "ZX" or not _touches(entry, marker):
            continue
        command = _read(entry / "cmdline").replace(b"\0", b" ").decode("utf-8", "replace").strip()
        yield ProcessId(int(entry.name), stat.start_ticks), command


def _touches(entry: Path, marker: bytes) -> bool:
    if marker in _read(entry / "cmdline") or marker in _read(entry / "environ"):
        return True
    with contextlib.suppress(OSError):
        links = [entry / "cwd", *(entry / "fd").iterdir()]
        return any(_link(link).startswith(marker) for link in links)
    return False


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _link(path: Path) -> bytes:
    try:
        return os.fsencode(os.readlink(path))
    except OSError:
        return b""


def pss_bytes(processes: list[ProcessId]) -> int:
    """Their proportional set size: memory shared by several is counted once."""
    total = 0
    for process in processes:
        for line in _read(Path(f"/proc/{process.pid}/smaps_rollup")).splitlines():
            if line.startswith(b"Pss:"):
                total += int(line.split()[1]) * 1024
    return total
