"""Asks user code for its `record_autoscaling_stats`, twice a second, and keeps what it said last.

The agent reads it with each ping and passes it on to the leader, where autoscaling policies of the user's own find it.
A hook that fails or takes long changes nothing for requests: the last words stand, the trouble is in the log, once.
"""

from __future__ import annotations

import asyncio
import logging
import math
import numbers
from collections.abc import Mapping

from serve_rt.observe.measures import Measure, measures
from serve_rt.replica.failures import sentence
from serve_rt.replica.hooks import run_hook
from serve_rt.replica.user_code import UserCode
from serve_rt.replica.user_loop import UserLoop

log = logging.getLogger(__name__)
EVERY_S = 0.5
LIMIT_S = 10.0
MAX_STATS = 64
_FAILED = Measure("serve_record_autoscaling_stats_failed", "Failures of record_autoscaling_stats.", ("exception_name",))


class AutoscalingStats:
    """Main loop only."""

    def __init__(self) -> None:
        self.latest: dict[str, float] = {}
        self._said = ""

    async def record(self, code: UserCode, user_loop: UserLoop) -> None:
        """For ever; returns at once where there is no hook."""
        hook = code.hook("record_autoscaling_stats")
        while hook is not None:
            if not user_loop.blocked:
                try:
                    self.latest = checked(await run_hook(user_loop, hook, timeout_s=LIMIT_S))
                except Exception as error:  # user code: told in the log
                    measures.count(_FAILED, type(error).__name__)
                    self._tell(sentence(error))
            await asyncio.sleep(EVERY_S)

    def _tell(self, words: str) -> None:
        if words != self._said:
            self._said = words
            log.warning("record_autoscaling_stats failed: %s", words, extra={"action": "autoscaling_stats_failed"})


def checked(stats: object) -> dict[str, float]:
    """*Errors*: TypeError, ValueError in the user's words."""
    if not isinstance(stats, Mapping):
        raise TypeError(f"record_autoscaling_stats must return a dict of numbers, got {type(stats).__name__}")
    if len(stats) > MAX_STATS:
        raise ValueError(f"record_autoscaling_stats returned {len(stats)} numbers, at most {MAX_STATS} are taken")
    for name, value in stats.items():
        number = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
        if not isinstance(name, str) or not number:
            raise TypeError(f"record_autoscaling_stats must return numbers by name, got {name!r}: {value!r}")
    return {name: float(value) for name, value in stats.items()}
