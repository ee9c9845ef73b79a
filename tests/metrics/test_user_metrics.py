"""`serve.metrics` as a program uses it, and pages joined from several processes."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

import serve_rt as serve
from serve_rt import metrics
from serve_rt.context import RequestContext, current_request
from serve_rt.observe import user_metrics
from serve_rt.observe.exposition import counter, join, latency, text_of
from serve_rt.observe.request_counts import MAX_SERIES, OTHER, RequestCounts


def sample(name: str, **labels: str) -> float | None:
    page = text_of(user_metrics.families()).decode()
    for family in text_string_to_metric_families(page):
        for one in family.samples:
            if one.name == name and one.labels == labels:
                return one.value
    return None


def test_the_three_kinds() -> None:
    assert serve.metrics is metrics
    requests = metrics.Counter("t_requests", description="how many", tag_keys=("model", "route"))
    requests.set_default_tags({"model": "a"})
    requests.inc(tags={"route": "/x"})
    requests.inc(2, tags={"model": "b", "route": "/x"})
    assert sample("ray_t_requests_total", model="a", route="/x") == 1
    assert sample("ray_t_requests_total", model="b", route="/x") == 2
    level = metrics.Gauge("t_level")
    level.set(5)
    level.set(3.5)
    assert sample("ray_t_level") == 3.5
    sizes = metrics.Histogram("t_sizes", boundaries=[10, 1], tag_keys=("k",))
    for value in (0.5, 5, 50):
        sizes.observe(value, tags={"k": "v"})
    found = [sample("ray_t_sizes_bucket", k="v", le=le) for le in ("1.0", "10.0", "+Inf")]
    assert found == [1, 2, 3] and sample("ray_t_sizes_sum", k="v") == 55.5
    assert sample("ray_t_sizes_created", k="v") is None


def test_the_route_comes_from_the_request() -> None:
    seen = metrics.Counter("t_seen", tag_keys=("route",))
    token = current_request.set(RequestContext(route="/shop"))
    try:
        seen.inc()  # Ray fails here
    finally:
        current_request.reset(token)
    assert sample("ray_t_seen_total", route="/shop") == 1


def test_the_same_metric_made_again_counts_on() -> None:
    for _ in range(2):
        metrics.Counter("t_again", tag_keys=("k",)).inc(tags={"k": "v"})
    assert sample("ray_t_again_total", k="v") == 2
    with pytest.raises(ValueError, match="made before as a Counter"):
        metrics.Gauge("t_again", tag_keys=("k",))
    with pytest.raises(ValueError, match="tag keys"):
        metrics.Counter("t_again", tag_keys=("other",))


def test_what_is_refused() -> None:
    bad: Any = ["k"]
    with pytest.raises(TypeError, match="tag_keys should be a tuple"):
        metrics.Counter("t_bad", tag_keys=bad)
    for reserved in ("deployment", "replica", "application"):
        with pytest.raises(ValueError, match=f"'{reserved}' tag is reserved"):
            metrics.Gauge("t_bad", tag_keys=(reserved,))
    with pytest.raises(ValueError, match="boundaries"):
        metrics.Histogram("t_bad")
    with pytest.raises(ValueError, match="greater than 0"):
        metrics.Histogram("t_bad", boundaries=[0, 1])
    with pytest.raises(ValueError, match="Empty name"):
        metrics.Counter("")
    good = metrics.Counter("t_good", tag_keys=("k",))
    with pytest.raises(ValueError, match="Missing value"):
        good.inc()
    with pytest.raises(ValueError, match="Unrecognized tag key x"):
        good.inc(tags={"k": "v", "x": "y"})
    with pytest.raises(ValueError, match="'replica' tag is reserved"):
        good.set_default_tags({"replica": "r"})
    with pytest.raises(ValueError, match=">0"):
        good.inc(0, tags={"k": "v"})


def test_request_counts_are_bounded_and_become_a_histogram() -> None:
    counts = RequestCounts()
    for took_s in (0.0005, 0.0015, 3600):
        counts.add(("/x",), took_s)
    page = text_of([latency("ms", "", ("route", "worker"), counts, ("w",))]).decode()
    (family,) = text_string_to_metric_families(page)
    values = {one.labels.get("le"): one.value for one in family.samples if one.name == "ray_ms_bucket"}
    assert (values["1"], values["2"], values["600000"], values["+Inf"]) == (1, 2, 2, 3)
    for number in range(2 * MAX_SERIES):
        counts.add((f"/{number}",), 0.1)
    assert len(counts.series) == MAX_SERIES + 1 and counts.series[(OTHER,)].count > 0
    assert counts.total == 2 * MAX_SERIES + 3 == sum(series.count for series in counts.series.values())


def test_pages_are_joined_family_by_family() -> None:
    pages = [text_of([counter("a", "A", ("w",), {(w,): 1.0}), counter("b", "B", ("w",), {(w,): 2.0})]) for w in "xyz"]
    joined = join([*pages, b"", b"rubbish before any family\n"]).decode()
    families = list(text_string_to_metric_families(joined))
    assert [(family.name, len(family.samples)) for family in families] == [("ray_a", 3), ("ray_b", 3)]
    assert joined.count("# TYPE") == 2 and "rubbish" not in joined
    assert join([]) == b""
