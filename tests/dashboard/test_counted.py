"""Rates from pages of counters that grow, begin anew and go away."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_rt.dashboard.counted import Counted, Demand, Traffic, read_pages, traffic_between
from serve_rt.model.ids import AppName, DeploymentKey, DeploymentName
from serve_rt.observe.exposition import counter, gauge, latency, text_of
from serve_rt.observe.request_counts import Labels, RequestCounts

LABELS = ("application", "route", "method", "status_code", "worker")


def page(requests: Mapping[str, int], worker: str = "w1", took_s: float = 0.004) -> str:
    """As a proxy worker writes it: so many requests of each application, all alike."""
    counts = RequestCounts()
    for app, number in requests.items():
        for _ in range(number):
            counts.add((app, "/", "GET", "200"), took_s)
    totals = {(*labels, worker): float(series.count) for labels, series in counts.series.items()}
    return text_of(
        [
            counter("serve_num_http_requests", "", LABELS, totals),
            latency("serve_http_request_latency_ms", "", LABELS, counts, (worker,)),
        ]
    ).decode()


def reading(**pages: str) -> Counted:
    return read_pages(pages)


def test_requests_of_all_nodes_and_workers_are_summed() -> None:
    before = reading(n1=page({"a": 10}), n2=page({"a": 5, "b": 1}))
    after = reading(n1=page({"a": 30}), n2=page({"a": 5, "b": 11}))
    rates = traffic_between(before, after, 2.0)
    assert {app: traffic.requests_per_s for app, traffic in rates.items()} == {"a": 10.0, "b": 5.0}


def test_a_worker_that_began_anew_counts_from_nothing() -> None:
    rates = traffic_between(reading(n1=page({"a": 100})), reading(n1=page({"a": 7})), 1.0)
    assert rates["a"].requests_per_s == 7.0


def test_a_worker_that_came_counts_whole_and_a_node_seen_first_does_not() -> None:
    before, worker = reading(n1=""), reading(n1=page({"a": 7}, worker="w2"))
    assert traffic_between(before, worker, 1.0)["a"].requests_per_s == 7.0
    node = reading(n1="", n2=page({"a": 1000}))
    assert traffic_between(before, node, 1.0)["a"].requests_per_s == 0.0, "what it counted before was no rush"


def test_latency_is_that_of_the_window_only() -> None:
    slow, fast = page({"a": 100}, took_s=3.0), page({"a": 100}, worker="w2", took_s=0.0045)
    traffic = traffic_between(reading(n1=slow), reading(n1=slow + fast), 5.0)["a"]
    assert traffic.p99_ms is not None and 2 < traffic.p99_ms <= 5, traffic
    assert traffic.p50_ms is not None and 2 < traffic.p50_ms < traffic.p99_ms
    idle = traffic_between(reading(n1=slow), reading(n1=slow), 5.0)["a"]
    assert idle == Traffic(0.0, 0.0, None, None, None)


def test_demand_is_summed_and_foreign_lines_are_left_out() -> None:
    labels = ("application", "deployment", "worker")
    texts = [
        text_of([gauge("serve_deployment_queued_queries", "", labels, {("a", "D", worker): 2.0})]).decode()
        + text_of([gauge("serve_num_ongoing_requests_at_replicas", "", labels, {("a", "D", worker): 3.0})]).decode()
        + 'something_else{application="a"} 5\n'
        for worker in ("w1", "w2")
    ]
    key = DeploymentKey(AppName("a"), DeploymentName("D"))
    assert read_pages({"n1": "".join(texts)}).demand == {key: Demand(4.0, 6.0)}


@given(st.lists(st.floats(0.0002, 500), min_size=1, max_size=60), st.sampled_from([0.5, 0.9, 0.99]))
def test_a_percentile_lies_in_the_bucket_of_the_true_one(took_s: list[float], share: float) -> None:
    counts = RequestCounts()
    for one in took_s:
        counts.add(("a", "/", "GET", "200"), one)
    labels = latency("serve_http_request_latency_ms", "", LABELS, counts, ("w",))
    totals: dict[Labels, float] = {("a", "/", "GET", "200", "w"): float(len(took_s))}
    text = text_of([labels, counter("serve_num_http_requests", "", LABELS, totals)]).decode()
    traffic = traffic_between(read_pages({"n": ""}), read_pages({"n": text}), 1.0)["a"]
    told = {0.5: traffic.p50_ms, 0.9: traffic.p90_ms, 0.99: traffic.p99_ms}[share]
    true_ms = sorted(took_s)[math.ceil(share * len(took_s)) - 1] * 1000
    bounds = [0.0, *sorted({bucket.bound_ms for bucket in read_pages({"n": text}).buckets.values()})]
    above = next(number for number, bound in enumerate(bounds) if true_ms <= bound)
    assert told is not None and bounds[above - 1] <= told <= bounds[above], (told, true_ms)


def test_errors_are_a_part_of_the_requests() -> None:
    labels: dict[Labels, float] = {("a", "/", "GET", "500", "w"): 6.0}
    text = text_of(
        [
            counter("serve_num_http_requests", "", LABELS, {**labels, ("a", "/", "GET", "200", "w"): 4.0}),
            counter("serve_num_http_error_requests", "", LABELS, labels),
        ]
    ).decode()
    traffic = traffic_between(read_pages({"n": ""}), read_pages({"n": text}), 2.0)["a"]
    assert (traffic.requests_per_s, traffic.errors_per_s) == (5.0, 3.0)


def test_a_page_that_cannot_be_read_is_an_error_of_its_own() -> None:
    with pytest.raises(ValueError):
        read_pages({"n": 'ray_serve_num_http_requests_total{application="a"} many\n'})
