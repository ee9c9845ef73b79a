"""What is counted for each request that has ended: how many, and how long they took. Plain integers, no I/O.

The request path calls `add` once per request (0.5 µs); what Prometheus wants to read is made of it when somebody asks
(serve_rt.observe.exposition).
"""

from __future__ import annotations

from bisect import bisect_left

LATENCY_BUCKETS_MS = (
    1, 2, 5, 10, 20, 50, 100, 200, 300, 400, 500, 1000, 2000, 5000, 10000, 60000, 120000, 300000, 600000,
)  # fmt: skip
MAX_SERIES = 1000
"""Of distinct labels; what comes later is counted as OTHER: methods and paths made up by clients fill no memory."""
OTHER = "other"

Labels = tuple[str, ...]


class Series:
    __slots__ = ("buckets", "sum_ms")

    def __init__(self) -> None:
        self.sum_ms = 0.0
        self.buckets = [0] * (len(LATENCY_BUCKETS_MS) + 1)
        """Requests whose latency fell between two bounds; the last one is above all."""

    @property
    def count(self) -> int:
        return sum(self.buckets)


class RequestCounts:
    """One thread writes; others may read."""

    def __init__(self) -> None:
        self.series: dict[Labels, Series] = {}
        self.total = 0

    def add(self, labels: Labels, took_s: float) -> None:
        series = self.series.get(labels)
        if series is None:
            series = self._new(labels)
        took_ms = took_s * 1000
        self.total += 1
        series.sum_ms += took_ms
        series.buckets[bisect_left(LATENCY_BUCKETS_MS, took_ms)] += 1

    def _new(self, labels: Labels) -> Series:
        if len(self.series) >= MAX_SERIES:
            labels = (OTHER,) * len(labels)
        return self.series.setdefault(labels, Series())
