"""`/-/metrics` of the shared cluster: what the runtime counts, and what user code does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.sync.client import connect
from websockets.typing import Subprotocol

import serve_rt as serve
from serve_rt.metrics import Counter, Gauge, Histogram
from tests.cluster.processes import eventually
from tests.conformance.apps_ingress import Shop
from tests.conformance.apps_routing import Notebook
from tests.conformance.asking import ANSWER_S, Cluster
from tests.conformance.bullets import covers

Samples = list[tuple[str, dict[str, str], float]]


@pytest.fixture(scope="module", autouse=True)
def apps(cluster: Cluster) -> Iterator[Any]:
    scales = {"min_replicas": 1, "max_replicas": 3, "target_ongoing_requests": 7}
    targets = [
        serve.RunTarget(Notebook.options(autoscaling_config=scales).bind(), name="counted", route_prefix="/counted"),
        serve.RunTarget(Shop.bind(), name="counted-shop", route_prefix="/counted-shop"),
    ]
    yield serve.run_many(targets)
    for target in targets:
        serve.delete(target.name, _blocking=False)


@pytest.fixture(scope="module")
def page(apps: None, cluster: Cluster) -> Samples:
    """After one of everything."""
    assert cluster.get("/counted").text == "counted"
    assert cluster.get("/counted/nowhere/else").status < 500
    assert cluster.get("/nobody-is-here").status == 404
    with connect(f"ws://{cluster.http_address}/counted-shop/ws/a", subprotocols=[Subprotocol("chat")]) as socket:
        socket.send("hello")
        socket.recv(timeout=ANSWER_S)
    with pytest.raises(LookupError):
        serve.get_app_handle("counted").raises.remote("lost").result(timeout_s=ANSWER_S)

    handle = serve.get_app_handle("counted")
    assert handle.one_batch.remote().result(timeout_s=ANSWER_S) == 1
    assert handle.use_model.remote().result(timeout_s=ANSWER_S) == "m"

    def complete() -> Samples | None:
        text = cluster.get("/-/metrics").text
        found = [
            (sample.name, sample.labels, sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        ]
        ended = value(found, "serve_deployment_request_counter_total", application="counted") >= 5
        sockets = value(found, "serve_num_http_requests_total", method="WEBSOCKET", application="counted-shop")
        return found if ended and sockets else None

    return eventually(complete, ANSWER_S, "all of it is counted")


def value(page: Samples, name: str, **labels: str) -> float:
    return sum(number for one, given, number in page if one == f"ray_{name}" and labels.items() <= given.items())


@covers("9.1-01")
def test_requests_of_the_proxy(page: Samples) -> None:
    mine = {"application": "counted", "route": "/counted", "method": "GET", "status_code": "200"}
    assert value(page, "serve_num_http_requests_total", **mine) >= 1
    assert value(page, "serve_http_request_latency_ms_count", **mine) >= 1
    assert value(page, "serve_num_http_error_requests_total", application="", route="", status_code="404") >= 1


@covers("9.1-02")
def test_requests_of_replicas(page: Samples) -> None:
    mine = {"application": "counted", "deployment": "Notebook"}
    assert value(page, "serve_deployment_request_counter_total", route="/counted", **mine) >= 1
    assert value(page, "serve_deployment_request_counter_total", route="raises", **mine) == 1
    assert value(page, "serve_deployment_error_counter_total", route="raises", **mine) == 1
    assert value(page, "serve_deployment_processing_latency_ms_count", **mine) >= 3
    assert any(
        name == "ray_serve_replica_processing_queries" and mine.items() <= labels.items() for name, labels, _ in page
    )


@covers("9.1-03")
def test_batches_and_models(page: Samples) -> None:
    mine = {"application": "counted", "deployment": "Notebook"}
    assert value(page, "serve_batches_processed_total", function_name="batched", **mine) == 1
    assert value(page, "serve_batch_utilization_percent_sum", function_name="batched", **mine) == 50
    assert value(page, "serve_multiplexed_models_load_counter_total", **mine) == 1
    assert value(page, "serve_num_multiplexed_models", **mine) == 1


@covers("9.1-04")
def test_states(page: Samples) -> None:
    mine = {"application": "counted", "deployment": "Notebook"}
    assert value(page, "serve_application_status", application="counted") == 6
    assert value(page, "serve_deployment_status", **mine) == 6
    assert value(page, "serve_deployment_replica_healthy", **mine) == 1
    assert value(page, "serve_autoscaling_target_replicas", **mine) == 1
    assert value(page, "serve_autoscaling_target_ongoing_requests", **mine) == 7


@covers("9.1-05")
def test_web_sockets(page: Samples) -> None:
    mine = {"application": "counted-shop", "route": "/counted-shop", "method": "WEBSOCKET", "status_code": "1000"}
    assert value(page, "serve_num_http_requests_total", **mine) == 1
    assert value(page, "serve_num_http_error_requests_total", method="WEBSOCKET", application="counted-shop") == 0


@covers("1.20-01", "1.20-03")
def test_what_user_code_counts(page: Samples) -> None:
    mine = {"application": "counted", "deployment": "Notebook"}
    calls = value(page, "conformance_asked_total", kind="usual", route="/counted", **mine)
    assert calls >= 1 and value(page, "conformance_asked_total", kind="rare", **mine) == 2 * calls
    assert value(page, "conformance_level", kind="usual", **mine) == 5
    assert value(page, "conformance_sizes_bucket", le="1.0", **mine) == 0
    assert value(page, "conformance_sizes_bucket", le="10.0", **mine) == calls


@covers("1.20-02")
def test_refused() -> None:
    with pytest.raises(TypeError, match="tag_keys should be a tuple"):
        Counter("conformance_a", tag_keys=["model"])  # type: ignore[arg-type]  # that is the case
    with pytest.raises(ValueError, match="'replica' tag is reserved"):
        Gauge("conformance_b", tag_keys=("replica",))
    with pytest.raises(ValueError, match="boundaries"):
        Histogram("conformance_c")
    with pytest.raises(ValueError, match="Empty name"):
        Counter("")
    counter = Counter("conformance_d", tag_keys=("model",))
    with pytest.raises(ValueError, match=r"Missing value for tag key.*model"):
        counter.inc()
    with pytest.raises(ValueError, match=r"Unrecognized tag key size.*model"):
        counter.inc(tags={"model": "a", "size": "b"})
    with pytest.raises(ValueError, match="value must be >0"):
        counter.inc(-1, {"model": "a"})
