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

_lock = threading.Lock()
_lends = False
_lent = 0


def begin() -> None:
    """This process is a task worker."""
    global _lends
    _lends = True


@contextmanager
def lent() -> Iterator[None]:
    """For the time of a wait."""
    if not _lends:
        yield
        return
    _change(1)
    try:
        yield
    finally:
        _change(-1)


def _change(by: int) -> None:
    global _lent
    context = find_replica_context()
    if context is None or context.set_extra_slots is None:
        return
    with _lock:  # the calls must arrive in the order of the sums
        _lent += by
        context.set_extra_slots(_lent)
