"""`/-/metrics` of a real node: its proxy, its replicas, and what user code counts in them."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

import serve_rt as serve
from tests.handle.conftest import own_cluster  # noqa: F401
from tests.metrics.metric_apps import Counting

pytestmark = pytest.mark.cluster
Page = dict[str, list[tuple[dict[str, str], float]]]


def get(url: str) -> tuple[int, str, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode(), answer.headers["content-type"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(), ""


def scrape(address: str) -> Page:
    status, text, kind = get(f"http://{address}/-/metrics")
    assert status == 200 and kind.startswith("text/plain; version=0.0.4")
    page: Page = {}
    for family in text_string_to_metric_families(text):
        assert family.name not in page, "a family stands once"
        for sample in family.samples:
            page.setdefault(sample.name, []).append((sample.labels, sample.value))
    return page


def value(page: Page, name: str, **labels: str) -> float:
    return sum(number for given, number in page.get(name, []) if labels.items() <= given.items())


def until(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 15
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def test_one_page_for_the_node(own_cluster: str) -> None:  # noqa: F811
    two = Counting.options(ray_actor_options={"num_cpus": 0.1}, num_replicas=2)
    handle: Any = serve.run(two.bind(), name="shop", route_prefix="/shop")
    for _ in range(20):
        assert get(f"http://{own_cluster}/shop")[:2] == (200, "counted")
    assert get(f"http://{own_cluster}/shop?fail=1")[0] == 500
    assert [handle.ping.remote().result(timeout_s=10) for _ in range(3)] == ["pong"] * 3
    assert handle.use.options(multiplexed_model_id="m1").remote().result(timeout_s=10) == "m1"
    # A replica counts a request when its user code has left, a moment after the answer.
    until(lambda: value(scrape(own_cluster), "ray_serve_deployment_request_counter_total", application="shop") >= 25)
    page = scrape(own_cluster)

    mine = {"application": "shop", "deployment": "_Counting"}
    counted = page["ray_my_requests_total"]
    assert {labels["replica"] for labels, _ in counted} <= {labels["replica"] for labels, _ in page["ray_my_level"]}
    assert len(counted) == 2 and value(page, "ray_my_requests_total", model="small", route="/shop", **mine) == 20
    assert value(page, "ray_my_level", **mine) == 14, "a gauge of each replica"

    shop = {"application": "shop", "route": "/shop", "method": "GET"}
    assert value(page, "ray_serve_num_http_requests_total", status_code="200", **shop) == 20
    assert value(page, "ray_serve_num_http_error_requests_total", **shop) == 1
    assert value(page, "ray_serve_http_request_latency_ms_count", **shop) == 21
    assert value(page, "ray_serve_num_ongoing_http_requests") == 0

    assert value(page, "ray_serve_deployment_request_counter_total", route="/shop", **mine) == 21
    assert value(page, "ray_serve_deployment_request_counter_total", route="ping", **mine) == 3
    assert value(page, "ray_serve_deployment_error_counter_total", route="/shop", **mine) == 1
    assert value(page, "ray_serve_deployment_processing_latency_ms_count", **mine) == 25
    assert value(page, "ray_serve_replica_processing_queries", **mine) == 0
    assert value(page, "ray_serve_registered_multiplexed_model_id", model_id="m1", **mine) == 1

    assert handle.batched.remote().result(timeout_s=10) == 1
    assert handle.through_a_handle.remote().result(timeout_s=10) == "pong"
    assert get(f"http://{own_cluster}/nowhere")[0] == 404
    until(lambda: value(scrape(own_cluster), "ray_serve_batches_processed_total", application="shop") == 1)
    _of_the_parts(scrape(own_cluster), mine)


def _of_the_parts(page: Page, mine: dict[str, str]) -> None:
    batches = {"function_name": "in_batches", **mine}
    assert value(page, "ray_serve_actual_batch_size_sum", **batches) == 1
    assert value(page, "ray_serve_batch_utilization_percent_sum", **batches) == 25
    for name in ("batch_wait_time_ms", "batch_execution_time_ms"):
        assert value(page, f"ray_serve_{name}_count", **batches) == 1
    assert [number for labels, number in page["ray_serve_batch_queue_length"] if batches.items() <= labels.items()]
    assert value(page, "ray_serve_multiplexed_models_load_counter_total", **mine) == 1
    assert value(page, "ray_serve_multiplexed_get_model_requests_counter_total", **mine) == 1
    assert value(page, "ray_serve_multiplexed_model_load_latency_ms_count", **mine) == 1
    assert value(page, "ray_serve_handle_request_counter_total", **mine) == 1
    assert value(page, "ray_serve_num_http_error_requests_total", status_code="404", route="", application="") == 1
    assert value(page, "ray_serve_num_ongoing_http_requests") == 0
    # Of the leader, which is on this node.
    assert value(page, "ray_serve_application_status", application="shop") == 6
    assert value(page, "ray_serve_deployment_status", **mine) == 6
    assert value(page, "ray_serve_deployment_replica_healthy", **mine) == 2
    assert value(page, "ray_serve_deployment_replica_starts_total", **mine) == 0
    assert value(page, "ray_serve_proxy_status", node_ip_address="127.0.0.1") == 2
    assert value(page, "ray_serve_controller_num_control_loops") > 0
