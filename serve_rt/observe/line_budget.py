"""So many log lines of one kind a second, and then a count: an overload must not be paid for twice.

Measured: a line costs about as much as a refusal without one. Used where clients decide how often something happens.
"""

from __future__ import annotations

import asyncio
import logging

LINES_PER_S = 10


class LineBudget:
    """Lives on one event loop.

    >>> budget = LineBudget(log, "requests were refused", "requests_refused")
    >>> if budget.spend():
    ...     log.info("…")
    """

    def __init__(self, log: logging.Logger, of_what: str, action: str) -> None:
        self._log, self._of_what, self._action = log, of_what, action
        self._spent = 0
        self._clock: asyncio.TimerHandle | None = None

    def spend(self) -> bool:
        """Whether this one may have a line of its own; those that may not are counted, and told together."""
        self._spent += 1
        if self._clock is None:
            self._clock = asyncio.get_running_loop().call_later(1.0, self._second_is_over)
        return self._spent <= LINES_PER_S

    def _second_is_over(self) -> None:
        kept_back = self._spent - LINES_PER_S
        self._spent = 0
        self._clock = None
        if kept_back > 0:
            self._log.info("%d more %s within a second", kept_back, self._of_what, extra={"action": self._action})
