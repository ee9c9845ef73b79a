"""When a request whose stream broke may be sent again. Pure, but for the budget's count.

Free, any number of times: it provably did not start. Once, within a budget: it may have started or has, it is safe to
run twice, and nothing of an answer was seen. Otherwise never: running twice what must not is worse than an error.
"""

from __future__ import annotations

from dataclasses import dataclass

from serve_rt.config.protections import Protection, enabled
from serve_rt.errors import Outcome

SHARE = 0.1
BURST = 256.0
"""A replica that dies takes its whole load with it: the budget must cover that at once."""


@dataclass(frozen=True, slots=True)
class Attempted:
    """What is known about a request when its stream broke."""

    outcome: Outcome
    retry_safe: bool
    retried: bool
    answer_began: bool
    replayable: bool
    """All of the body sent so far is still here."""


def may_run_again(attempted: Attempted) -> bool:
    """Whether sending it again is right, budget aside."""
    if not attempted.replayable or attempted.answer_began:
        return False
    if attempted.outcome is Outcome.NOT_STARTED:
        return True
    if not enabled(Protection.RETRY_RULE):  # for negative controls: as if everything were safe to run twice
        return not attempted.retried
    return attempted.retry_safe and not attempted.retried


class RetryBudget:
    """Every request earns a tenth of a retry."""

    def __init__(self) -> None:
        self._left = BURST

    def earn(self) -> None:
        if self._left < BURST:
            self._left += SHARE

    def spend(self) -> bool:
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
