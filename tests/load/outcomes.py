"""What became of each request, and the counts and percentiles of many.

Lost = failed + hang + wrong. A refusal is an honest answer (429 or 503 with Retry-After) and counted apart.
"""

from __future__ import annotations

import enum
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise


class Verdict(enum.StrEnum):
    OK = "ok"
    REFUSED = "refused"
    FAILED = "failed"
    """Another status, a reset, a refused connection, a body cut short."""
    HANG = "hang"
    """No complete answer at deadline + 1 s."""
    WRONG = "wrong"
    """A complete 2xx that is not the answer to this request: foreign nonce, gap or repetition in a stream."""


@dataclass(frozen=True, slots=True)
class Record:
    """One request. Times are seconds after the generator's start."""

    nonce: str
    scheduled_s: float
    sent_s: float
    end_s: float
    verdict: Verdict
    reason: str = ""
    status: int = 0
    pid: int = 0
    version: str = ""
    attempts: int = 1

    @property
    def latency_s(self) -> float:
        """From the time the request was due, not from when it could be sent: a stalled server cannot hide."""
        return self.end_s - self.scheduled_s


def percentile(ordered: Sequence[float], share: float) -> float:
    """Nearest rank; nan of nothing."""
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclass(slots=True)
class Report:
    records: list[Record] = field(default_factory=list)

    @staticmethod
    def merged(reports: Iterable[Report]) -> Report:
        records = [record for report in reports for record in report.records]
        return Report(sorted(records, key=lambda record: record.scheduled_s))

    def count(self, verdict: Verdict) -> int:
        return sum(record.verdict is verdict for record in self.records)

    @property
    def ok(self) -> int:
        return self.count(Verdict.OK)

    @property
    def refused(self) -> int:
        return self.count(Verdict.REFUSED)

    @property
    def lost(self) -> int:
        return sum(self.count(verdict) for verdict in (Verdict.FAILED, Verdict.HANG, Verdict.WRONG))

    @property
    def pids(self) -> set[int]:
        return {record.pid for record in self.records if record.pid}

    def latency_s(self, share: float) -> float:
        return percentile(sorted(r.latency_s for r in self.records if r.verdict is Verdict.OK), share)

    def reasons(self) -> Counter[str]:
        bad = (record for record in self.records if record.verdict is not Verdict.OK)
        return Counter(f"{record.verdict}: {record.reason}" for record in bad)

    def longest_gap_s(self) -> float:
        """The longest time without one good answer."""
        ends = sorted(record.end_s for record in self.records if record.verdict is Verdict.OK)
        return max((later - earlier for earlier, later in pairwise(ends)), default=math.inf)

    def summary(self) -> str:
        counts = " ".join(f"{verdict}={self.count(verdict)}" for verdict in Verdict)
        p50, p99, worst = (self.latency_s(share) * 1e3 for share in (0.5, 0.99, 1.0))
        text = (
            f"{counts} lost={self.lost} | p50 {p50:.1f} ms p99 {p99:.1f} ms max {worst:.0f} ms "
            f"| longest gap {self.longest_gap_s() * 1e3:.0f} ms"
        )
        first = self.reasons().most_common(5)
        return text + "".join(f"\n    {count} x {reason}" for reason, count in first)
