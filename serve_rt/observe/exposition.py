"""What was counted, in Prometheus' text format; and several processes' texts joined into one page.

prometheus-client is loaded at the first use: a process that nobody scrapes never pays for it. Every name gets PREFIX,
as Ray's do, so that dashboards made for Ray Serve find them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from serve_rt.observe.request_counts import LATENCY_BUCKETS_MS, Labels, RequestCounts

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

PREFIX = "ray_"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def counter(name: str, text: str, labels: Sequence[str], values: Mapping[Labels, float]) -> Metric:
    from prometheus_client.metrics_core import CounterMetricFamily

    family = CounterMetricFamily(PREFIX + name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def gauge(name: str, text: str, labels: Sequence[str], values: Mapping[Labels, float]) -> Metric:
    from prometheus_client.metrics_core import GaugeMetricFamily

    family = GaugeMetricFamily(PREFIX + name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def latency(name: str, text: str, labels: Sequence[str], counts: RequestCounts, more: Labels = ()) -> Metric:
    """A histogram of `counts`; `more` are the values of the last labels, the same for all series."""
    from prometheus_client.metrics_core import HistogramMetricFamily

    family = HistogramMetricFamily(PREFIX + name, text, labels=labels)
    bounds = [*map(str, LATENCY_BUCKETS_MS), "+Inf"]
    for key, series in list(counts.series.items()):
        family.add_metric((*key, *more), list(zip(bounds, accumulate(series.buckets), strict=True)), series.sum_ms)
    return family


def text_of(families: Iterable[Metric]) -> bytes:
    from prometheus_client import generate_latest

    return generate_latest(_Page(families))


class _Page:
    """All that `generate_latest` asks of a registry. Times of creation are left out: they double the page."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        for family in self._families:
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family


def join(texts: Iterable[bytes]) -> bytes:
    """One page of several: the samples of a family stand together, described once.

    A line that cannot be placed is left out; texts come from our own processes, each a page of its own.
    """
    heads: dict[bytes, list[bytes]] = {}
    samples: dict[bytes, list[bytes]] = {}
    for text in texts:
        name = b""
        for line in text.splitlines():
            if line.startswith((b"# HELP ", b"# TYPE ")):
                name = line.split(b" ", 3)[2]
                samples.setdefault(name, [])
                described = heads.setdefault(name, [])
                if not any(other[:7] == line[:7] for other in described):
                    described.append(line)
            elif line and not line.startswith(b"#") and name:
                samples[name].append(line)
    lines = [line for name, head in heads.items() for line in (*head, *samples[name])]
    return b"\n".join((*lines, b"")) if lines else b""
