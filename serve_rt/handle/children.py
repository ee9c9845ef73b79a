"""Which calls were made for which request, so that the end of a request ends them too.

The replica calls `cancel_children` when a request is cancelled; a call that was made for it leaves its queue, or its
replica is told. Requests are known by the `cancelled` event of their context, which lives as long as they do.
"""

from __future__ import annotations

import threading
from typing import Protocol
from weakref import WeakKeyDictionary, WeakSet

from serve_rt.context import RequestContext


class Cancellable(Protocol):
    def cancel(self) -> None: ...


_lock = threading.Lock()
_children: WeakKeyDictionary[threading.Event, WeakSet[Cancellable]] = WeakKeyDictionary()


def adopt(parent: RequestContext, child: Cancellable) -> None:
    """Remember that `child` works for `parent`; a parent that is cancelled already takes it along at once."""
    with _lock:
        _children.setdefault(parent.cancelled, WeakSet()).add(child)
    if parent.cancelled.is_set():
        child.cancel()


def cancel_children(parent: RequestContext) -> None:
    """Cancel every call made for `parent`; from any thread, never blocks."""
    with _lock:
        children = list(_children.pop(parent.cancelled, ()))
    for child in children:
        child.cancel()
