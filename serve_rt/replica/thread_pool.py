"""Threads for sync handlers: started when needed, bounded, daemons.

A sync handler cannot be stopped from outside, so the pool never waits for one at the end of the process. The standard
executor is not used: it joins its threads at exit, and a Future and a condition per request cost more than the rest of
a request's way through this package.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

log = logging.getLogger(__name__)
MAX_THREADS = 256
"""More sync handlers than this at once wait for a thread, whatever `max_ongoing_requests` says."""
IDLE_S = 60.0


class ThreadPool:
    """Runs `work()` in one of at most `limit` threads, first come, first served. Called from the main loop."""

    def __init__(self, limit: int) -> None:
        self._work: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._unfinished = 0
        self.set_limit(limit)

    def set_limit(self, limit: int) -> None:
        self._limit = max(1, min(limit, MAX_THREADS))

    def submit(self, work: Callable[[], None]) -> None:
        """`work` handles its own errors."""
        with self._lock:
            self._unfinished += 1
            if self._threads < min(self._unfinished, self._limit):
                self._threads += 1
                threading.Thread(target=self._run, name="sync handler", daemon=True).start()
        self._work.put(work)

    def _run(self) -> None:
        while True:
            try:
                work = self._work.get(timeout=IDLE_S)
            except Empty:
                if self._leave():
                    return
                continue
            try:
                work()
            except BaseException:  # user code may raise SystemExit here: the thread must live on for the others
                log.exception("a sync handler's thread saw an error", extra={"action": "pool_error"})
            del work  # a waiting thread must not keep the last request's memory
            with self._lock:
                self._unfinished -= 1

    def _leave(self) -> bool:
        """Whether this thread may end: not when a work submitted just now counts on it."""
        with self._lock:
            if self._threads <= self._unfinished:
                return False
            self._threads -= 1
            return True

    @property
    def waiting(self) -> int:
        """Works that wait for a thread."""
        return max(0, self._unfinished - self._threads)

    def __repr__(self) -> str:
        return f"<ThreadPool [{self._threads} of {self._limit} threads | {self._unfinished} unfinished]>"
