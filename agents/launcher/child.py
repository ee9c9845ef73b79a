"""A forked child from the fork to the first line of its entry: nothing of the parent may be left on it.

Called by `forking` in the child; never returns. Order matters: descriptors and the log first, so that whatever fails
later is written where a person looks; random generators and threads last, when the environment is what it will be.
"""

from __future__ import annotations

import gc
import importlib
import io
import logging
import os
import resource
import signal
import sys
import traceback
from pathlib import Path
from typing import NoReturn

from serve_rt.agents.launcher.prctl import may_be_inspected
from serve_rt.agents.launcher.processes import stat_of
from serve_rt.agents.launcher.records import ProcessKind, SpawnSpec
from serve_rt.agents.launcher.thread_limits import environment_for_threads, limit_loaded_libraries
from serve_rt.config.protections import Protection, enabled

FAILED = 70
"""Exit code of a child whose entry could not be run or raised (EX_SOFTWARE)."""
SOCKET_FD = 3
MARKER = "SERVE_RT_PROCESS"
"""Names the replica in the environment of all it starts: what it leaves behind is recognised by it."""
_OOM_SCORE = {ProcessKind.REPLICA: 300, ProcessKind.PROXY: 100}
_MAX_DESCRIPTORS = 1 << 20


def become(spec: SpawnSpec, socket_fd: int | None) -> NoReturn:
    """Be the process of `spec`; its exit code is what the entry returns."""
    code = FAILED
    try:
        _reset_signals(for_program=bool(spec.argv))
        _keep_only(socket_fd)
        _point_to_log(spec.log_path)
        _set_limits(spec.kind)
        if spec.cwd:
            os.chdir(spec.cwd)
        environment = environment_of_child(spec, os.environ)
        if spec.argv:
            os.execvpe(spec.argv[0], spec.argv, environment)
        code = _run_entry(spec, environment, socket_fd is not None)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:  # the edge of the process: the reason goes to its log
        traceback.print_exc()
    finally:
        _flush()
        os._exit(code)


def marker_of(name: str, incarnation: int, pid: int, start_ticks: int) -> str:
    return f"{name}.{incarnation}@{pid}-{start_ticks}"


def environment_of_child(spec: SpawnSpec, inherited: os._Environ[str] | dict[str, str]) -> dict[str, str]:
    stat = stat_of(os.getpid())
    ticks = stat.start_ticks if stat is not None else 0
    made = {**environment_for_threads(inherited, spec.threads, forked=not spec.argv), **spec.env}
    for name in spec.unset_env:
        if name not in spec.env:
            made.pop(name, None)
    made[MARKER] = marker_of(spec.name, spec.incarnation, os.getpid(), ticks)
    return made


def _reset_signals(*, for_program: bool) -> None:
    """As in a fresh interpreter; as in a fresh process for a program that is executed."""
    signal.set_wakeup_fd(-1)
    ignored = set() if for_program else {signal.SIGPIPE, signal.SIGXFSZ}
    for signum in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        handler = signal.SIG_IGN if signum in ignored else signal.SIG_DFL
        try:
            signal.signal(signum, handler)
        except (OSError, ValueError):
            continue  # reserved by the C library
    signal.signal(signal.SIGINT, signal.SIG_DFL if for_program else signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _keep_only(socket_fd: int | None) -> None:
    first = SOCKET_FD
    if socket_fd is not None:
        if socket_fd != SOCKET_FD:
            os.dup2(socket_fd, SOCKET_FD, inheritable=False)
        first += 1
        may_be_inspected()  # a new launcher takes the socket back from here
    # The parent's Python objects still name these descriptors; they are never collected, because its frames lie
    # below ours on the stack and this process ends with os._exit.
    os.closerange(first, max(os.sysconf("SC_OPEN_MAX"), 65536))


def _point_to_log(path: str) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    log = null
    if path:
        try:
            Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        except OSError as error:  # serving matters more than the log
            os.write(2, f"cannot open the log {path}: {error.strerror}\n".encode())
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    for fd in {null, log} - {0, 1, 2}:
        os.close(fd)


def _set_limits(kind: ProcessKind) -> None:
    score = _OOM_SCORE.get(kind)
    if score is not None:
        try:
            Path("/proc/self/oom_score_adj").write_text(str(score))
        except OSError:
            pass  # a sandbox without it
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _run_entry(spec: SpawnSpec, environment: dict[str, str], has_socket: bool) -> int:
    for name in set(os.environ) - environment.keys():
        del os.environ[name]
    os.environ.update(environment)
    sys.path[:0] = spec.sys_path
    importlib.invalidate_caches()  # folders may have got new files since the parent looked
    sys.argv[:] = [spec.title or spec.entry]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)  # what is printed is in the log when the process is killed
    logging.getLogger().handlers.clear()  # the parent's; the entry configures its own
    if spec.title:
        from setproctitle import setproctitle

        setproctitle(spec.title)
    if enabled(Protection.RESEED):
        _reseed()
    limit_loaded_libraries(spec.threads)
    gc.enable()
    module, _, function = spec.entry.partition(":")
    entry = getattr(importlib.import_module(module), function)
    start = {**spec.start, "socket_fd": SOCKET_FD} if has_socket else spec.start
    return int(entry(start) or 0)


def _reseed() -> None:
    """Without it all children of one parent would draw the same numbers."""
    import random

    random.seed(os.urandom(32))
    numpy_random = sys.modules.get("numpy.random")  # not asked of numpy, which would import it
    if numpy_random is not None and hasattr(numpy_random, "seed"):
        numpy_random.seed(int.from_bytes(os.urandom(4), "little"))
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "manual_seed"):
        torch.manual_seed(int.from_bytes(os.urandom(7), "little"))


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            continue
