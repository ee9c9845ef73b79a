"""Keeps this process's log file small: 64 MiB, and three old ones.

The launcher has pointed stdout and stderr at the file. Everything that writes there (our log, user prints, C libraries)
keeps writing to the same descriptors: when the file has grown too long it is renamed and a fresh one is put under
descriptors 1 and 2. Children that inherited the old descriptors go on writing to the renamed file.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

MAX_LOG_BYTES = 64 << 20
OLD_LOGS = 3


class RotatingLog:
    """`check()` now and then from one thread. Does nothing when stdout is not a regular file."""

    def __init__(self, fds: Iterable[int] = (1, 2), max_bytes: int = MAX_LOG_BYTES) -> None:
        self._max_bytes = max_bytes
        self._fds = tuple(fds)
        self._path = _file_behind(self._fds[0])

    def check(self) -> bool:
        """Rotate if the file is too long; says whether it did."""
        if self._path is None or os.fstat(self._fds[0]).st_size < self._max_bytes:
            return False
        self._shift()
        fresh = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            for fd in self._fds:
                os.dup2(fresh, fd)
        finally:
            os.close(fresh)
        return True

    def _shift(self) -> None:
        assert self._path is not None
        for age in range(OLD_LOGS, 1, -1):
            younger = _aged(self._path, age - 1)
            if younger.exists():
                os.replace(younger, _aged(self._path, age))
        os.replace(self._path, _aged(self._path, 1))


def _aged(path: Path, age: int) -> Path:
    return path.with_name(f"{path.name}.{age}")


def _file_behind(fd: int) -> Path | None:
    try:
        path = Path(os.readlink(f"/proc/self/fd/{fd}"))
        same = os.path.samestat(os.fstat(fd), os.stat(path))
    except OSError:  # a pipe, or a file that was deleted
        return None
    return path if same and stat.S_ISREG(os.fstat(fd).st_mode) else None
