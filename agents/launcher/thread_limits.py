"""How many threads numeric libraries may use: one in fork parents, `threads` in the child.

BLAS and OpenMP read their variables once, when they are loaded. Fork parents hold them to one, because a parent with a
thread pool cannot be forked safely; the child gives them what its deployment asked for.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_BEFORE = "SERVE_RT_BEFORE_"
"""Prefix under which a fork parent keeps what the user had set."""


def hold_to_one() -> None:
    """In a fork parent, before any library is imported."""
    for name in VARIABLES:
        if name in os.environ:
            os.environ[_BEFORE + name] = os.environ[name]
        os.environ[name] = "1"


def environment_for_threads(inherited: Mapping[str, str], threads: int, *, forked: bool) -> dict[str, str]:
    """The environment without the parent's own limits; what the user set wins over `threads`."""
    made = {name: value for name, value in inherited.items() if not name.startswith(_BEFORE)}
    if not forked:
        return made
    for name in VARIABLES:
        made[name] = inherited.get(_BEFORE + name) or str(max(1, threads))
    return made


def limit_loaded_libraries(threads: int) -> None:
    """For what was loaded before the fork and reads no variable any more."""
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "set_num_threads"):
        return
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    torch.set_num_threads(int(wanted) if wanted.isdigit() and int(wanted) > 0 else max(1, threads))
