"""One agent per state dir: an flock held for life, with the holder's pid in the file for messages.

A copied state dir (a cloned disk, `cp -a`) has a lock of its own, but its handle files name processes of the original:
whoever adopted them would serve and end what is another's. So the file also says its own inode number, which a copy
does not have, and a copy is refused while any process that it names lives.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from serve_rt.agents.launcher.handle_files import HandleFiles
from serve_rt.agents.launcher.records import Handle
from serve_rt.agents.proc_state import command_line
from serve_rt.config.protections import Protection, enabled
from serve_rt.errors import ConflictError


class StateLock:
    """*Resources*: held until `release()` or the end of the process, however it ends."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @staticmethod
    def take(path: Path) -> StateLock:
        """*Errors*: ConflictError naming the agent that has it, or the processes of the state dir this is a copy of."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _refuse_copy(path, fd)
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
        except ConflictError:
            os.close(fd)
            raise
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n{os.fstat(fd).st_ino}\n".encode(), 0)
        return StateLock(fd)

    def release(self) -> None:
        os.close(self._fd)


def _refuse_copy(path: Path, fd: int) -> None:
    """*Errors*: ConflictError."""
    if _line(path, 1) in (0, os.fstat(fd).st_ino) or not enabled(Protection.OWN_DIR):
        return
    living = [handle for handle in HandleFiles(path.parent / "handles").all() if handle.alive()]
    if living:
        raise ConflictError(
            f"the state dir {path.parent} is a copy of one whose processes run on this machine "
            f"({_named(living)}): give this agent a --state-dir of its own, or end the original with `serve-agent stop`"
        )


def _named(living: list[Handle]) -> str:
    first = living[0]
    more = f" and {len(living) - 1} more" if living[1:] else ""
    return f"{first.name}, pid {first.pid}, log {first.spec.log_path}{more}"


def holder(path: Path) -> int:
    """The pid in the lock file; 0 when there is none."""
    return _line(path, 0)


def _line(path: Path, number: int) -> int:
    try:
        return int(path.read_text().split()[number])
    except (OSError, ValueError, IndexError):
        return 0
