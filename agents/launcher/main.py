"""`python -m serve_rt.agents.launcher.main --state-dir DIR`: the process that outlives its agent.

Started detached by `client`. Listens first, so that the agent's first command does not wait for imports.
"""

from __future__ import annotations

import os
import resource
import socket
import sys
from pathlib import Path

from serve_rt.config.paths import StateDir
from serve_rt.observe.log import configure

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def main(arguments: list[str]) -> int:
    if len(arguments) != 2 or arguments[0] != "--state-dir":
        print("usage: python -m serve_rt.agents.launcher.main --state-dir DIR", file=sys.stderr)
        return 2
    state = StateDir(Path(arguments[1]))
    configure("launcher")
    listener = _listen(state.launcher_socket)
    if listener is None:
        return 0  # another launcher was first: the agent will speak to that one
    _raise_descriptor_limit()
    for name in THREAD_VARIABLES:
        os.environ[name] = "1"  # before any library reads it: a process that forks must have one thread

    from serve_rt.agents.launcher.front import Front

    Front(state, listener).run()
    return 0


def _listen(path: Path) -> socket.socket | None:
    """The command socket; None when a living launcher has it. A dead one's socket file is replaced."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    staged.unlink(missing_ok=True)
    listener.bind(str(staged))
    os.chmod(staged, 0o600)
    listener.listen(16)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            os.replace(staged, path)
            return listener
    staged.unlink()
    return None


def _raise_descriptor_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    try:
        import setproctitle

        setproctitle.setproctitle("serve-rt launcher")
    except ImportError:
        pass
    sys.exit(main(sys.argv[1:]))
