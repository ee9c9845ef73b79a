"""Learning must not slow down what serves. Niceness is inherited and cannot be taken back by ordinary users, so a
process that will fork replicas is niced only where it can undo that; elsewhere SCHED_BATCH must do."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

_NICE = 10


@contextmanager
def lowered_priority() -> Iterator[None]:
    nice_undoable = os.geteuid() == 0 or resource.getrlimit(resource.RLIMIT_NICE)[0] >= 20
    old = os.getpriority(os.PRIO_PROCESS, 0)
    policy = os.sched_getscheduler(0)
    if policy == os.SCHED_OTHER:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    if nice_undoable:
        os.setpriority(os.PRIO_PROCESS, 0, min(19, old + _NICE))
    try:
        yield
    finally:
        if nice_undoable:
            try:
                os.setpriority(os.PRIO_PROCESS, 0, old)
            except OSError:
                pass  # a sandbox whose root may not: the replicas run niced
        if policy == os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
