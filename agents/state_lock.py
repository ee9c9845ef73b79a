"""One agent per state dir: an flock held for life, with the holder's pid in the file for messages."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from serve_rt.agents.proc_state import command_line
from serve_rt.errors import ConflictError


class StateLock:
    """*Resources*: held until `release()` or the end of the process, however it ends."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @staticmethod
    def take(path: Path) -> StateLock:
        """*Errors*: ConflictError naming the agent that has it."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            pid = holder(path)
            raise ConflictError(
                f"the state dir {path.parent} is in use by the agent with pid {pid or 'unknown'} "
                f"({command_line(pid) if pid else 'no command line'}): stop it with `serve-agent stop`, "
                "or give this one another --state-dir"
            ) from error
        os.ftruncate(fd, 0)
        os.write(fd, f"{os.getpid()}\n".encode())
        return StateLock(fd)

    def release(self) -> None:
        os.close(self._fd)


def holder(path: Path) -> int:
    """The pid in the lock file; 0 when there is none."""
    try:
        return int(path.read_text().strip() or 0)
    except (OSError, ValueError):
        return 0
