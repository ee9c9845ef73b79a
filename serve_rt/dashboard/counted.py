"""What the nodes' pages of metrics say of requests, as totals; and the rates between two such readings. Pure.

A page is Prometheus' text (serve_rt.observe.exposition). Its counters only grow, until a process that wrote them ends:
then they fall, and what they showed before is gone. So rates are taken series by series, and a series that fell counts
from nothing, as Prometheus' `rate` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from serve_rt.model.ids import AppName, DeploymentKey, DeploymentName
from serve_rt.observe.exposition import PREFIX

_REQUESTS = PREFIX + "serve_num_http_requests_total"
_ERRORS = PREFIX + "serve_num_http_error_requests_total"
_LATENCY = PREFIX + "serve_http_request_latency_ms_bucket"
_QUEUED = PREFIX + "serve_deployment_queued_queries"
_ONGOING = PREFIX + "serve_num_ongoing_requests_at_replicas"
_READ = frozenset({_REQUESTS, _ERRORS, _LATENCY, _QUEUED, _ONGOING})

Series = tuple[str, ...]
"""The node and the values of all labels: what tells one counter of a process from every other."""


@dataclass(frozen=True, slots=True)
class Demand:
    """Of one deployment, summed over those who ask it."""

    queued: float = 0.0
    ongoing: float = 0.0


@dataclass(frozen=True, slots=True)
class Counter:
    app: str
    total: float
    bound_ms: float = 0.0
    """Of a bucket: its upper bound."""


@dataclass(frozen=True, slots=True)
class Counted:
    """One reading of all nodes."""

    nodes: frozenset[str] = frozenset()
    """Whose page was read: what a node counted before it was first read is no growth."""
    requests: Mapping[Series, Counter] = field(default_factory=dict)
    errors: Mapping[Series, Counter] = field(default_factory=dict)
    buckets: Mapping[Series, Counter] = field(default_factory=dict)
    demand: Mapping[DeploymentKey, Demand] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Traffic:
    """Of one application, between two readings."""

    requests_per_s: float = 0.0
    errors_per_s: float = 0.0
    p50_ms: float | None = None
    """None: nothing ended in between."""
    p90_ms: float | None = None
    p99_ms: float | None = None


def read_pages(pages: Mapping[str, str]) -> Counted:
    """*Takes*: the text of each node's page, by node."""
    from prometheus_client.parser import text_string_to_metric_families

    requests: dict[Series, Counter] = {}
    errors: dict[Series, Counter] = {}
    buckets: dict[Series, Counter] = {}
    demand: dict[DeploymentKey, Demand] = {}
    for node, text in pages.items():
        wanted = "".join(line for line in text.splitlines(keepends=True) if _is_read(line))
        for family in text_string_to_metric_families(wanted):
            for sample in family.samples:
                labels, value = sample.labels, float(sample.value)
                series = (node, *labels.values())
                app = labels.get("application", "")
                if sample.name == _REQUESTS:
                    requests[series] = Counter(app, value)
                elif sample.name == _ERRORS:
                    errors[series] = Counter(app, value)
                elif sample.name == _LATENCY:
                    buckets[series] = Counter(app, value, float(labels["le"]))
                else:
                    key = DeploymentKey(AppName(app), DeploymentName(labels.get("deployment", "")))
                    demand[key] = _more(demand.get(key, Demand()), sample.name, value)
    return Counted(frozenset(pages), requests, errors, buckets, demand)


def _is_read(line: str) -> bool:
    """Whether the line is a sample that is looked at: pages hold much more, and parsing is what costs."""
    return line.partition("{")[0] in _READ


def _more(demand: Demand, name: str, value: float) -> Demand:
    if name == _QUEUED:
        return Demand(demand.queued + value, demand.ongoing)
    return Demand(demand.queued, demand.ongoing + value)


def traffic_between(before: Counted, after: Counted, took_s: float) -> dict[str, Traffic]:
    """What went through each application in `took_s` (above 0); those that never had a request are left out."""
    requests = _by_app(before.requests, after.requests, before.nodes)
    errors = _by_app(before.errors, after.errors, before.nodes)
    latencies = _latencies(before, after)
    return {
        app: Traffic(
            count / took_s,
            errors.get(app, 0.0) / took_s,
            *(_quantile(latencies.get(app, {}), share) for share in (0.5, 0.9, 0.99)),
        )
        for app, count in sorted(requests.items())
        if app
    }


def _growth(before: Mapping[Series, Counter], series: Series, total: float, known: frozenset[str]) -> float:
    if series not in before:
        return total if series[0] in known else 0.0
    was = before[series].total
    return total - was if total >= was else total


def _by_app(
    before: Mapping[Series, Counter], after: Mapping[Series, Counter], known: frozenset[str]
) -> dict[str, float]:
    sums: dict[str, float] = {}
    for series, counter in after.items():
        sums[counter.app] = sums.get(counter.app, 0.0) + _growth(before, series, counter.total, known)
    return sums


def _latencies(before: Counted, after: Counted) -> dict[str, dict[float, float]]:
    """By application: upper bound -> how many requests that ended in between took no longer."""
    found: dict[str, dict[float, float]] = {}
    for series, counter in after.buckets.items():
        bounds = found.setdefault(counter.app, {})
        grown = _growth(before.buckets, series, counter.total, before.nodes)
        bounds[counter.bound_ms] = bounds.get(counter.bound_ms, 0.0) + grown
    return found


def _quantile(at_most: Mapping[float, float], share: float) -> float | None:
    """Linear within the bucket, as Prometheus' `histogram_quantile`; above the last bound: that bound."""
    bounds = sorted(at_most)
    total = at_most[bounds[-1]] if bounds else 0.0
    if total <= 0:
        return None
    rank, low, below = share * total, 0.0, 0.0
    for bound in bounds:
        inside = at_most[bound] - below
        if at_most[bound] >= rank and inside > 0:
            return low if bound == float("inf") else low + (bound - low) * (rank - below) / inside
        low, below = bound, at_most[bound]
    return low
