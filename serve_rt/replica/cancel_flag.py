"""The event that tells user code its request was cancelled, made for every request and nearly never waited for.

A threading.Event costs as much as a good part of a request's way through the replica, because of its condition. This
one is a flag until somebody waits.
"""

from __future__ import annotations

import threading

_lock = threading.Lock()
"""For the two rare steps, of all flags: the first wait and the set."""


class CancelFlag(threading.Event):
    def __init__(self) -> None:
        self._done = False
        self._waited: threading.Event | None = None

    def is_set(self) -> bool:
        return self._done

    def set(self) -> None:
        with _lock:
            self._done = True
            waited = self._waited
        if waited is not None:
            waited.set()

    def clear(self) -> None:
        raise TypeError("a cancellation cannot be taken back")

    def wait(self, timeout: float | None = None) -> bool:
        with _lock:
            if self._done:
                return True
            waited = self._waited = self._waited or threading.Event()
        return waited.wait(timeout)

    def __repr__(self) -> str:
        return f"<CancelFlag [{'cancelled' if self._done else 'not cancelled'}]>"
