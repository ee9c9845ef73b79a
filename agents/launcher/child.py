"""From the fork to the child's first own line: the new process sheds everything that is the launcher's.

`fork_child` returns in the parent with the child held at a gate: it does nothing until `Gate.open()`, called when its
handle file is written, and ends by itself if the launcher dies before. So no process ever runs that no file names.
Called by the front process and by nurseries.
"""

from __future__ import annotations

import importlib
import logging
import os
import random
import signal
import sys
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NoReturn

from serve_rt.agents.launcher.records import ProcessKind, SpawnSpec
from serve_rt.config.protections import Protection, enabled

EXIT_BROKEN = 70
"""EX_SOFTWARE: the entry raised."""
_OOM_SCORE = {ProcessKind.REPLICA: 300, ProcessKind.PROXY: 100}
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(slots=True)
class Gate:
    """Holds a forked child until it may begin."""

    fd: int

    def open(self) -> None:
        try:
            os.write(self.fd, b"!")
        except BrokenPipeError:
            pass  # it was killed meanwhile; its end is reaped like any other
        finally:
            os.close(self.fd)


def fork_child(spec: SpawnSpec, keep_fds: Iterable[int] = ()) -> tuple[int, Gate]:
    """Fork; the child's pid and its gate. `keep_fds` stay open in the child."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        _run_child(spec, frozenset(keep_fds), read_end, write_end)
    os.close(read_end)
    return pid, Gate(write_end)


def _run_child(spec: SpawnSpec, keep: frozenset[int], gate: int, far_end: int) -> NoReturn:
    code = EXIT_BROKEN
    try:
        os.close(far_end)  # ours would keep the gate from reporting the launcher's death
        os.setsid()
        _default_signals()
        _open_log(spec.log_path)
        if os.read(gate, 1) != b"!":
            os._exit(EXIT_BROKEN)
        _close_all_but(keep)
        code = _become(spec)
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else int(done.code is not None)
    except BaseException:  # the edge of a process: nothing may return into the launcher's loop
        traceback.print_exc()
    finally:
        try:
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def _become(spec: SpawnSpec) -> int:
    _set_environment(spec)
    os.chdir(spec.cwd)
    _write_quietly("/proc/self/oom_score_adj", str(_OOM_SCORE.get(spec.kind, 0)))
    _normal_scheduling()
    if spec.argv:
        os.execvpe(spec.argv[0], list(spec.argv), dict(os.environ))
    _set_title(spec.title)
    sys.path[:0] = [path for path in spec.sys_path if path not in sys.path]
    importlib.invalidate_caches()
    _limit_threads(spec.threads)
    if enabled(Protection.RESEED):
        reseed()
    module, _, function = spec.entry.partition(":")
    result = getattr(importlib.import_module(module), function)(dict(spec.start))
    return int(result or 0)


def reseed() -> None:
    """Fresh randomness: forks of one parent would otherwise all draw the same numbers (measured)."""
    random.seed(os.urandom(32))
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    if numpy is not None:
        numpy.random.seed(int.from_bytes(os.urandom(4), "little"))
    if torch is not None:
        torch.manual_seed(int.from_bytes(os.urandom(7), "little"))


def _default_signals() -> None:
    signal.set_wakeup_fd(-1)
    for signum in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGUSR1):
        signal.signal(signum, signal.SIG_DFL if signum != signal.SIGPIPE else signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _open_log(path: str) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    target = null
    if path:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(target, 1)
    os.dup2(target, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    logging.getLogger().handlers.clear()


def _close_all_but(keep: frozenset[int]) -> None:
    """The launcher's sockets are not the child's. Its Python objects stay referenced by frames below us, so none is
    finalised later and closes a descriptor that means something else by then."""
    first = 3
    for fd in sorted(keep):
        os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, _highest_fd() + 1)


def _highest_fd() -> int:
    return max((int(name) for name in os.listdir("/proc/self/fd")), default=3)


def _set_environment(spec: SpawnSpec) -> None:
    for name in spec.unset_env:
        os.environ.pop(name, None)
    if not spec.argv:
        for name in _THREAD_VARIABLES:
            os.environ[name] = str(spec.threads)
    os.environ.update(spec.env)


def _limit_threads(threads: int) -> None:
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(max(1, threads))


def _normal_scheduling() -> None:
    """A nursery runs as a batch process; its children serve requests."""
    try:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    except OSError:
        pass


def _set_title(title: str) -> None:
    if title:
        import setproctitle

        setproctitle.setproctitle(title)


def _write_quietly(path: str, text: str) -> None:
    try:
        with open(path, "w") as file:
            file.write(text)
    except OSError:
        pass
