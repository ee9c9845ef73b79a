"""What the tests have forked: each entry writes what it sees to the file `start["out"]`, as JSON, in one step."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

Start = dict[str, Any]  # Any: JSON of a test


def _tell(start: Start, /, **facts: object) -> None:
    out = Path(start["out"])
    staged = out.with_suffix(".tmp")
    staged.write_text(json.dumps(facts))
    os.replace(staged, out)


def _for_ever() -> int:
    while True:
        time.sleep(60)


def exit_with(start: Start) -> int:
    code: int = start["code"]
    return code


def raise_error(start: Start) -> int:
    raise ValueError("the entry is broken")


def sleep(start: Start) -> int:
    if "out" in start:
        _tell(start, pid=os.getpid())
    return _for_ever()


def surroundings(start: Start) -> int:
    import resource
    import signal

    print("printed to the log")
    _tell(
        start,
        pid=os.getpid(),
        session=os.getsid(0),
        start=start,
        env=dict(os.environ),
        cwd=os.getcwd(),
        path=sys.path[:2],
        argv=sys.argv,
        fds=sorted(int(fd) for fd in os.listdir("/proc/self/fd")),
        stdin=os.readlink("/proc/self/fd/0"),
        term_is_default=signal.getsignal(signal.SIGTERM) is signal.SIG_DFL,
        blocked=sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        oom=Path("/proc/self/oom_score_adj").read_text().strip(),
        files=resource.getrlimit(resource.RLIMIT_NOFILE),
        command=Path("/proc/self/cmdline").read_bytes().rstrip(b"\0 ").decode(),
    )
    return _for_ever()


def numbers(start: Start) -> int:
    """Was numpy there already, and what does its global generator say?"""
    known = "numpy" in sys.modules
    import numpy

    _tell(start, preloaded=known, numpy=numpy.random.randint(0, 2**31, 4).tolist(), random=random.random())
    return 0


def leave_orphans(start: Start) -> int:
    """A child in our session, a program and a fork that left it (double fork, setsid), then end or stay."""
    same = subprocess.Popen(["/bin/sleep", "600"])
    program = _daemon(["/bin/sleep", "600"])
    fork = _daemon(None)
    _tell(start, pid=os.getpid(), left=[same.pid, program, fork])
    same.returncode = 0  # nobody waits for it: that is the point
    return int(start["code"]) if "code" in start else _for_ever()


def _daemon(command: list[str] | None) -> int:
    """Its pid; it is no child of ours any more."""
    read_end, write_end = os.pipe()
    if os.fork() == 0:
        os.setsid()
        pid = os.fork()
        if pid == 0:
            if command is not None:
                os.execv(command[0], command)
            _for_ever()
        os.write(write_end, str(pid).encode())
        os._exit(0)
    os.wait()
    pid = int(os.read(read_end, 32))
    os.close(read_end)
    os.close(write_end)
    return pid


def accept(start: Start) -> int:
    """A worker: says its pid to each connection, until it is told to end."""
    listener = socket.socket(fileno=start["socket_fd"])
    _tell(start, pid=os.getpid(), port=listener.getsockname()[1])
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(str(os.getpid()).encode())


def import_slow(start: Start) -> int:
    """Import what a test made on the fly; how long did it take?"""
    began = time.monotonic()
    __import__(start["module"])
    _tell(start, took_s=time.monotonic() - began, pid=os.getpid())
    return 0


def embed(start: Start) -> int:
    """Construct the real model; what was imported on the way, and how long did it take?"""
    known = set(sys.modules)
    began = time.monotonic()
    from serve_rt.examples.embed import SentenceModel

    model = SentenceModel()
    took_s = time.monotonic() - began
    vector = model.encode(["a cat sleeps on the sofa"])[0]
    answered_s = time.monotonic() - began
    imported = [name for name in sys.modules if name not in known and name != "__main__"]
    _tell(start, took_s=took_s, answered_s=answered_s, imported=imported, size=len(vector))
    return 0
