"""One-way roads between threads: many messages, one wake-up.

The main loop and the user loop hand each other small calls (a request to start, an answer to send). Waking a loop from
another thread is a system call, so a burst pays for it once: the first message of a burst wakes the loop, the rest ride
along. Used in both directions by everything in this package; nobody here uses `run_coroutine_threadsafe` per request.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Any

log = logging.getLogger(__name__)


class Crossing:
    """Runs calls on `loop`, in the order they were posted, from whatever thread.

    *Resources*: none of its own; messages posted after the loop has closed are dropped.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self._loop = loop
        self._name = name
        self._waiting: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()  # Any: arguments of any call
        self._awake = False
        # Not the poster's: timers and tasks begun over there would keep a request's context, and a model that it used
        # would stay in use as long as they live.
        self._context = Context()

    def post(self, call: Callable[..., object], *args: Any) -> None:
        """Run `call(*args)` on the loop soon. From any thread; never blocks."""
        self._waiting.append((call, args))
        # The append comes first: a drain that clears the flag between the two lines pops this message; one that
        # cleared it before is awake for nothing. Either way no message is left behind.
        if not self._awake:
            self._awake = True
            self._wake()

    def _wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._drain, context=self._context)
        except RuntimeError:  # the loop is closed: the process is ending and nobody waits for these messages
            self._waiting.clear()

    def _drain(self) -> None:
        self._awake = False
        waiting = self._waiting
        for _ in range(len(waiting)):
            call, args = waiting.popleft()
            try:
                call(*args)
            except Exception:  # one request's bug must not lose the messages of the others behind it
                log.exception("a call over the crossing %s failed", self._name, extra={"action": "crossing_failed"})

    def __repr__(self) -> str:
        return f"<Crossing {self._name} [{len(self._waiting)} waiting]>"
