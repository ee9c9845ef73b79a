"""Time as a thing that is handed over, so that tests need no sleep.

`monotonic()` is for deadlines and intervals, `wall()` only for what people read. Pure decisions take `now` as an
argument instead.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never goes back."""
        ...

    def wall(self) -> float:
        """Seconds since 1970, for display only."""
        ...


class SystemClock:
    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()


class ManualClock:
    """A clock that moves only when told."""

    def __init__(self, start_s: float = 1000.0) -> None:
        self._now_s = start_s

    def monotonic(self) -> float:
        return self._now_s

    def wall(self) -> float:
        return 1_700_000_000.0 + self._now_s

    def advance(self, seconds: float) -> None:
        self._now_s += seconds
