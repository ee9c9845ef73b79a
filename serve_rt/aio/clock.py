"""Time as a thing that is handed over, so that tests need no sleep.

`monotonic()` is for deadlines and intervals, `wall()` only for what people read. Pure decisions take `now` as an
argument instead.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from typing import Protocol


class Clock(Protocol):
    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never goes back."""
        ...

    def wall(self) -> float:
        """Seconds since 1970, for display only."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return when this clock has moved on by `seconds`."""
        ...


class SystemClock:
    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class ManualClock:
    """A clock that moves only when told."""

    def __init__(self, start_s: float = 1000.0) -> None:
        self._now_s = start_s
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def monotonic(self) -> float:
        return self._now_s

    def wall(self) -> float:
        return 1_700_000_000.0 + self._now_s

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now_s + seconds, next(self._order), woken))
        self.advance(0.0)
        await woken

    def advance(self, seconds: float) -> None:
        """Move on and wake whoever has slept long enough, earliest first; they run when the caller next awaits."""
        self._now_s += seconds
        while self._sleepers and self._sleepers[0][0] <= self._now_s:
            *_, woken = heapq.heappop(self._sleepers)
            if not woken.done():  # its task was cancelled
                woken.set_result(None)
