"""A task that waits for other tasks lends its worker's place to one of them, and takes it back when it goes on.

Ray gives the CPU of a worker that is blocked in `ray.get` to another task. Here the worker process itself takes one
more task for each that waits: without that, tasks that call tasks would hold every place and wait for ever. Only task
workers lend: a deployment's or an actor's limit is its author's.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from serve_rt.api.replica_context import find_replica_context
from serve_rt.context import current_request

_lock = threading.Lock()
_lends = False
_waits: dict[int, int] = {}
"""How many waits each task is in, by its request: a task that gathers many results lends one place."""


def begin() -> None:
    """This process is a task worker."""
    global _lends
    _lends = True


@contextmanager
def lent() -> Iterator[None]:
    """For the time of a wait."""
    task = current_request.get() if _lends else None
    if task is None:
        yield
        return
    _change(id(task), 1)
    try:
        yield
    finally:
        _change(id(task), -1)


def _change(task: int, by: int) -> None:
    context = find_replica_context()
    if context is None or context.set_extra_slots is None:
        return
    with _lock:  # the calls must arrive in the order of the sums
        before = len(_waits)
        _waits[task] = _waits.get(task, 0) + by
        if not _waits[task]:
            del _waits[task]
        if len(_waits) != before:
            context.set_extra_slots(len(_waits))
