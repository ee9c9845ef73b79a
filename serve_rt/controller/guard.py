"""Is a new version worse than the old one? Pure; asked by `judging` while a guarded rollout has its first replica out.

The two versions are compared over the same time and the same callers. The new one is bad when its share of errors is
above the old one's by more than the guard allows, with 95 % confidence (three errors in four requests are enough, three
in fifty are not), or when its p99 is longer than the old one's by more than the guard's factor, as surely.
"""

from __future__ import annotations

import math

from serve_rt.model.spec import GuardOptions
from serve_rt.model.tally import Tally

MIN_ERRORS = MIN_SLOW = 3
"""One unlucky request is no verdict, nor are two."""
MIN_OLD_ANSWERS = 20
"""Before their slowest can stand for what was usual."""
LEAST_SLOWER_S = 0.005
_Z = 1.645
"""One-sided 95 %."""


def fault_of(guard: GuardOptions, old: Tally, new: Tally) -> str:
    """Why the new version is bad; "" as long as nothing can be said against it."""
    return _too_many_errors(guard, old, new) or _too_slow(guard, old, new)


def _too_many_errors(guard: GuardOptions, old: Tally, new: Tally) -> str:
    if guard.error_rate is None or new.errors < MIN_ERRORS:
        return ""
    before = old.errors / old.ended if old.ended else 0.0
    if surely_above(new.errors, new.ended) <= before + guard.error_rate:
        return ""
    return (
        f"{new.errors} of its {new.ended} requests failed, {old.errors} of {old.ended} with the version before it "
        f"(guard: error_rate={guard.error_rate:g})"
    )


def _too_slow(guard: GuardOptions, old: Tally, new: Tally) -> str:
    """The p99 is worse when surely more than one answer in a hundred takes longer than the old p99 may have become."""
    if guard.latency_factor is None or old.answered < MIN_OLD_ANSWERS:
        return ""
    before_s = old.slowest_s(max(1, old.answered // 100))
    allowed_s = max(before_s * guard.latency_factor, before_s + LEAST_SLOWER_S)
    slow = new.slower_than(allowed_s)
    if slow < MIN_SLOW or surely_above(slow, new.answered) <= 0.01:
        return ""
    return (
        f"{slow} of its {new.answered} answers took more than {allowed_s * 1000:.0f} ms, the p99 of the version before "
        f"it is {before_s * 1000:.0f} ms (guard: latency_factor={guard.latency_factor:g})"
    )


def surely_above(errors: int, ended: int) -> float:
    """The lower bound of the share of errors (Wilson): it is hardly below that."""
    share, z2 = errors / ended, _Z * _Z
    middle = share + z2 / (2 * ended)
    spread = _Z * math.sqrt(share * (1 - share) / ended + z2 / (4 * ended * ended))
    return (middle - spread) / (1 + z2 / ended)
