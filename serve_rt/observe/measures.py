"""What the parts of a process count of their own work beside requests: batches, models, hooks. Plain numbers, no I/O.

A part names its measures once, as constants, and tells `measures` what happened; nothing of prometheus-client is loaded
for that. The page of a replica (serve_rt.replica.exposition) makes families of them when somebody asks. Thread-safe:
batches run on any loop of the user's.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from serve_rt.observe.exposition import PREFIX, counter, gauge
from serve_rt.observe.request_counts import MAX_SERIES, OTHER, Labels

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric


@dataclass(frozen=True, slots=True)
class Measure:
    name: str
    """Ray's, without its prefix."""
    text: str
    labels: Labels = ()
    bounds: tuple[float, ...] = ()
    """Of a histogram; none: a counter, or a level."""


class _Buckets:
    __slots__ = ("counts", "total")

    def __init__(self, bounds: int) -> None:
        self.counts, self.total = [0] * (bounds + 1), 0.0


class Measures:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[Measure, dict[Labels, float]] = {}
        self._histograms: dict[Measure, dict[Labels, _Buckets]] = {}
        self._levels: dict[Measure, Callable[[], Mapping[Labels, float]]] = {}

    def count(self, measure: Measure, *labels: str, by: float = 1.0) -> None:
        with self._lock:
            series = self._counts.setdefault(measure, {})
            key = _bounded(labels, series)
            series[key] = series.get(key, 0.0) + by

    def observe(self, measure: Measure, value: float, *labels: str) -> None:
        with self._lock:
            series = self._histograms.setdefault(measure, {})
            key = _bounded(labels, series)
            buckets = series.get(key)
            if buckets is None:
                buckets = series[key] = _Buckets(len(measure.bounds))
            buckets.counts[bisect_left(measure.bounds, value)] += 1
            buckets.total += value

    def level(self, measure: Measure, read: Callable[[], Mapping[Labels, float]]) -> None:
        """`read` is asked whenever a page is made, from any thread."""
        self._levels[measure] = read

    def families(self, names: Labels, origin: Labels) -> list[Metric]:
        """`names` and `origin`: labels that all series get besides, and their values."""
        found = []
        for measure, read in list(self._levels.items()):
            values = {(*origin, *key): value for key, value in read().items()}
            found.append(gauge(measure.name, measure.text, (*names, *measure.labels), values))
        with self._lock:
            for measure, series in self._counts.items():
                counted = {(*origin, *key): value for key, value in series.items()}
                found.append(counter(measure.name, measure.text, (*names, *measure.labels), counted))
            for measure, histogram in self._histograms.items():
                found.append(_family(measure, histogram, names, origin))
        return found


def _bounded(labels: Labels, series: Mapping[Labels, object]) -> Labels:
    return labels if labels in series or len(series) < MAX_SERIES else (OTHER,) * len(labels)


def _family(measure: Measure, series: Mapping[Labels, _Buckets], names: Labels, origin: Labels) -> Metric:
    from prometheus_client.metrics_core import HistogramMetricFamily

    family = HistogramMetricFamily(PREFIX + measure.name, measure.text, labels=(*names, *measure.labels))
    bounds = [*(f"{bound:g}" for bound in measure.bounds), "+Inf"]
    for key, buckets in series.items():
        counts = list(zip(bounds, accumulate(buckets.counts), strict=True))
        family.add_metric((*origin, *key), counts, buckets.total)
    return family


measures = Measures()
"""Of this process."""
