"""`python -m serve_rt.agents.launcher.main --state-dir DIR`: started by `client`, detached from everything.

`--ready-fd N`: one byte is written there when the socket answers; its closing without one means that it never will.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
from pathlib import Path


def main(arguments: list[str]) -> int:
    from serve_rt.agents.launcher.front import AnotherLauncher, Front
    from serve_rt.config.paths import StateDir
    from serve_rt.observe import log as process_log

    state, ready_fd = (
        StateDir(Path(_option(arguments, "--state-dir")).absolute()),
        int(_option(arguments, "--ready-fd", "-1")),
    )
    process_log.configure("launcher")
    log = logging.getLogger(__name__)
    try:
        state.create()
        front = Front(state)
    except AnotherLauncher as error:
        log.info("%s", error, extra={"action": "launcher_not_needed"})
        return 0
    os.chdir("/")  # the directory we were started in may be removed
    if ready_fd >= 0:
        os.write(ready_fd, b"1")
        os.close(ready_fd)
    from setproctitle import setproctitle

    setproctitle(f"serve-rt launcher {state.path}")
    gc.freeze()
    log.info("listening", extra={"action": "launcher_listening", "pid": os.getpid()})
    front.run()
    return 0


def _option(arguments: list[str], name: str, default: str = "") -> str:
    """The launcher has two options and starts often enough: no parser is imported."""
    return arguments[arguments.index(name) + 1] if name in arguments else default


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
