"""How the requests of one version went: what a guarded rollout is judged by.

Counted by routers while a route is guarded (`serve_rt.routing.tally`), carried by demand reports, added up by the
leader, compared in `serve_rt.controller.guard`. Latencies are kept in buckets of a factor of the square root of two.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

BUCKETS = 34
"""Bucket 0 ends at 1 ms, the next ones at 1.4, 2, 2.8 ms …; the last one holds all from 65 s on."""
_FIRST_S = 1e-3


def bucket_of(seconds: float) -> int:
    if seconds <= _FIRST_S:
        return 0
    return min(BUCKETS - 1, math.ceil(2 * math.log2(seconds / _FIRST_S)))


def bucket_end_s(bucket: int) -> float:
    """No latency in the bucket is longer (but in the last one)."""
    return _FIRST_S * math.pow(2.0, bucket / 2)


@dataclass(frozen=True, slots=True)
class Tally:
    answered: int = 0
    """Answers that began, with an error or not."""
    errors: int = 0
    """5xx, exceptions of user code, replicas that died with the request, requests that hung to their deadline."""
    latencies: tuple[int, ...] = ()
    """Answers by their latency's bucket."""

    @property
    def ended(self) -> int:
        """Requests that something can be said of: a request that got no answer is an error and not answered."""
        return max(self.answered, self.errors)

    def slowest_s(self, rank: int) -> float:
        """The `rank`-th slowest answer took at most so long; 0.0 with fewer answers."""
        left = rank
        for bucket in range(len(self.latencies) - 1, -1, -1):
            left -= self.latencies[bucket]
            if left <= 0:
                return bucket_end_s(bucket)
        return 0.0

    def slower_than(self, seconds: float) -> int:
        """Answers that surely took longer: those of the buckets above."""
        above = (count for bucket, count in enumerate(self.latencies) if bucket and bucket_end_s(bucket - 1) >= seconds)
        return sum(above)


def together(tallies: Iterable[Tally]) -> Tally:
    """What several reporters have seen of one version."""
    answered, errors, latencies = 0, 0, [0] * BUCKETS
    for tally in tallies:
        answered, errors = answered + tally.answered, errors + tally.errors
        for bucket, count in enumerate(tally.latencies[:BUCKETS]):
            latencies[bucket] += count
    return Tally(answered, errors, tuple(latencies))
