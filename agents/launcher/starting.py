"""Start a launcher that outlives us: its own session, no terminal, its log in the state dir."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from serve_rt.config.paths import StateDir
from serve_rt.errors import UnavailableError

READY_S = 10.0
_READY_FD = 3


async def start_launcher(state: StateDir) -> None:
    """Return when the new launcher answers, or found that another one does.

    *Errors*: UnavailableError naming the log when it came to neither in READY_S.
    """
    read_end, write_end = os.pipe()
    try:
        pid = _spawn(state, write_end)
    finally:
        os.close(write_end)
    loop = asyncio.get_running_loop()
    _reap_when_ended(loop, pid)
    told = asyncio.Event()
    loop.add_reader(read_end, told.set)
    try:
        async with asyncio.timeout(READY_S):
            await told.wait()  # a byte, or the end: whoever connects now finds out which
    except TimeoutError as error:
        raise UnavailableError(
            f"the launcher (pid {pid}) did not start within {READY_S:g} s: see {state.logs / 'launcher.log'}"
        ) from error
    finally:
        loop.remove_reader(read_end)
        os.close(read_end)


def _spawn(state: StateDir, ready_fd: int) -> int:
    """posix_spawn: our own memory, threads and descriptors do not matter to it."""
    log = str(state.logs / "launcher.log")
    command = [sys.executable, "-P", "-m", "serve_rt.agents.launcher.main"]
    command += ["--state-dir", str(state.path), "--ready-fd", str(_READY_FD)]
    return os.posix_spawn(
        sys.executable,
        command,
        _environment(),
        file_actions=[
            (os.POSIX_SPAWN_DUP2, ready_fd, _READY_FD),
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
        setsigmask=[],
    )


def _environment() -> dict[str, str]:
    """Ours; and the way to this very code, should it be neither installed nor on PYTHONPATH."""
    environment = dict(os.environ)
    root = str(Path(__file__).parents[3])
    if root in sys.path[:1] or "" in sys.path[:1]:
        known = environment.get("PYTHONPATH", "")
        environment["PYTHONPATH"] = f"{known}{os.pathsep}{root}" if known else root
    return environment


def _reap_when_ended(loop: asyncio.AbstractEventLoop, pid: int) -> None:
    """It stays our child for as long as we live; dead, it must not stay a zombie."""
    pidfd = os.pidfd_open(pid)

    def ended() -> None:
        loop.remove_reader(pidfd)
        os.close(pidfd)
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            pass  # somebody who waits for any child had it

    loop.add_reader(pidfd, ended)
