"""Fork one process so that it runs if, and only if, its handle file says so.

Called in a fork parent (`nursery`, or `front` for programs). The child waits at a gate: one byte that its parent sends
after the pid is on disk. A parent that dies in between closes the gate, and the child ends before its first step.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from dataclasses import replace
from typing import NoReturn

from serve_rt.agents.launcher.child import become
from serve_rt.agents.launcher.handle_files import HandleFiles
from serve_rt.agents.launcher.processes import boot_id, stat_of
from serve_rt.agents.launcher.records import Handle
from serve_rt.errors import ServeException

NEVER_STARTED = 71
"""Exit code of a child whose gate was closed."""
_OPEN = b"g"


def fork_child(handle: Handle, files: HandleFiles, socket_fd: int | None = None) -> Handle:
    """The handle with its pid, written; its process runs.

    *Errors*: ServeException; then nothing runs and the reservation is as it was.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    gc.freeze()
    read_gate, write_gate = os.pipe()
    # A signal between the fork and the child's own handlers would run the parent's handlers in the child.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _wait_at_gate(handle, read_gate, write_gate, socket_fd)
    except OSError as error:
        os.close(write_gate)
        raise ServeException(f"cannot fork for {handle.name}: {error.strerror}") from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(read_gate)
    try:
        return _let_go(handle, files, pid, write_gate)
    finally:
        os.close(write_gate)


def _let_go(handle: Handle, files: HandleFiles, pid: int, gate: int) -> Handle:
    stat = stat_of(pid)
    ticks = stat.start_ticks if stat is not None else 0
    started = replace(handle, pid=pid, start_ticks=ticks, boot_id=boot_id(), started_at_s=time.time())
    try:
        files.write(started)
        os.write(gate, _OPEN)
    except BrokenPipeError:
        pass  # it was killed at the gate: that is its exit
    except OSError as error:
        os.kill(pid, signal.SIGKILL)
        raise ServeException(f"cannot write the handle file of {handle.name}: {error.strerror}") from error
    return started


def _wait_at_gate(handle: Handle, read_gate: int, write_gate: int, socket_fd: int | None) -> NoReturn:
    try:
        os.setsid()
        os.close(write_gate)  # else our own copy would keep the gate from closing
        if os.read(read_gate, 1) == _OPEN:
            become(handle.spec, socket_fd)
    finally:
        os._exit(NEVER_STARTED)
