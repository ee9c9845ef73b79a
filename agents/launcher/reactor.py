"""The launcher's only loop: descriptors, signals, and things to look at again soon. One thread, nothing blocks.

asyncio is not used: importing it costs more than the rest of the launcher, and a process that forks is easier to trust
when it has nothing but a selector.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import time
from collections.abc import Callable
from typing import Any

log = logging.getLogger(__name__)
POLL_S = 0.01


class Reactor:
    """*Resources*: lives as long as its process."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._signals: dict[int, Callable[[], None]] = {}
        self._polled: list[Callable[[], bool]] = []
        self._stopped = False
        self._wake_read, wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        self.watch(self._wake_read, selectors.EVENT_READ, self._signalled)

    def watch(self, source: Any, events: int, ready: Callable[[int], None]) -> None:  # Any: fd or socket
        """Call `ready(events)` whenever; asked again for the same source, it changes what is watched."""
        try:
            self._selector.modify(source, events, ready)
        except KeyError:
            self._selector.register(source, events, ready)

    def forget(self, source: Any) -> None:
        try:
            self._selector.unregister(source)
        except (KeyError, ValueError):
            pass  # not watched any more

    def poll_until(self, done: Callable[[], bool]) -> None:
        """Ask `done` now and every POLL_S until it says true."""
        if not done():
            self._polled.append(done)

    def on_signal(self, signum: int, call: Callable[[], None]) -> None:
        self._signals[signum] = call
        signal.signal(signum, lambda _signum, _frame: None)

    def run(self) -> None:
        while not self._stopped:
            for key, events in self._selector.select(POLL_S if self._polled else None):
                if key.fileobj in self._selector.get_map():  # not forgotten by the one before
                    self._guarded(lambda key=key, events=events: key.data(events))  # type: ignore[misc]  # bound now
            self._ask_polled()

    def stop(self) -> None:
        self._stopped = True

    def _ask_polled(self) -> None:
        asked, self._polled = self._polled, []
        for done in asked:
            finished: list[bool] = []
            self._guarded(lambda done=done, finished=finished: finished.append(done()))  # type: ignore[misc]  # bound now
            if finished == [False]:
                self._polled.append(done)

    def _signalled(self, _events: int) -> None:
        try:
            numbers = set(os.read(self._wake_read, 4096))
        except BlockingIOError:
            return
        for signum in numbers:
            call = self._signals.get(signum)
            if call is not None:
                call()

    @staticmethod
    def _guarded(call: Callable[[], object]) -> None:
        """The launcher holds the node's sockets and children: one wrong request must not take them along."""
        try:
            call()
        except Exception:
            log.exception("a request or event failed", extra={"action": "launcher_error"})


class Deadline:
    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds

    @property
    def passed(self) -> bool:
        return time.monotonic() >= self._at
