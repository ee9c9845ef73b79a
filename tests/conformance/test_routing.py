"""Routing as its users see it: limits, refusals, dead replicas, clients that leave."""

from __future__ import annotations

import concurrent.futures
import http.client
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import serve_rt as serve
from serve_rt.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from tests.cluster.processes import eventually
from tests.conformance.apps_routing import Filled, NeverReady, Notebook
from tests.conformance.asking import ANSWER_S, LIGHT, Cluster
from tests.conformance.bullets import covers


@pytest.fixture(scope="module", autouse=True)
def apps(cluster: Cluster) -> Iterator[Any]:
    refusing = Filled.options(backpressure_config={"status_code": 429, "retry_after_s": 2.5})
    targets = [
        serve.RunTarget(Filled.bind(Notebook.bind()), name="filled", route_prefix="/filled"),
        serve.RunTarget(refusing.bind(), name="refusing", route_prefix="/refusing"),
    ]
    yield serve.run_many(targets)
    for target in targets:
        serve.delete(target.name, _blocking=False)


@pytest.fixture
def notes() -> Callable[[str], None]:
    book = serve.get_deployment_handle("Notebook", "filled")

    def wait_for(note: str) -> None:
        eventually(lambda: note in book.noted.remote().result(timeout_s=ANSWER_S), ANSWER_S, note)

    return wait_for


def refused_by_handle(handle: Any) -> BackPressureError:
    """Fill it by handle until it refuses: two that run, and what may wait."""
    responses: list[Any] = []
    try:
        while len(responses) < 20:
            responses.append(handle.wait.remote("full"))
            try:
                responses[-1].result(timeout_s=0.2)
            except BackPressureError as error:
                return error
            except TimeoutError:
                continue
        raise AssertionError("it took 20")
    finally:
        for response in responses:
            response.cancel()


@covers("4.6-01", "4.2-01", "1.18-02")
def test_full(cluster: Cluster) -> None:
    handle = serve.get_app_handle("refusing")
    error = refused_by_handle(handle)
    assert error.status_code == 429 and error.max_queued_requests == 1 and error.retry_after_s == 2.5
    assert "Request dropped due to backpressure" in str(error)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:

        def one() -> tuple[int, str]:
            connection = http.client.HTTPConnection(cluster.http_address, timeout=ANSWER_S)
            try:
                connection.request("GET", "/refusing?do=wait", headers={"x-request-timeout-seconds": "1"})
                answer = connection.getresponse()
                return answer.status, answer.headers.get("retry-after", "")
            finally:
                connection.close()

        answers = [future.result() for future in [pool.submit(one) for _ in range(8)]]
    refused = [after for status, after in answers if status == 429]
    assert len(refused) >= 4 and set(refused) == {"3"}, answers
    assert {status for status, _ in answers} <= {429, 408}


@covers("4.4-01")
def test_sessions(cluster: Cluster) -> None:
    assert cluster.ask("/filled", headers={"X-Session-Id": "s1"}).json()["session"] == "s1"
    handle = serve.get_app_handle("filled")
    assert handle.options(session_id="s2").session.remote().result(timeout_s=ANSWER_S) == "s2"


@covers("4.7-01")
def test_a_replica_that_dies_under_a_request(cluster: Cluster) -> None:
    answer = cluster.ask("/filled?do=die", method="POST")
    assert (answer.status == 502 and "started" in answer.text) or "unknown" in answer.text
    assert eventually(lambda: cluster.get("/filled").status == 200, 20, "its successor answers")
    with pytest.raises(RayServeException, match="Replica filled#Filled#.* died while it had the request"):
        serve.get_app_handle("filled").die.remote().result(timeout_s=ANSWER_S)
    assert eventually(lambda: cluster.get("/filled").status == 200, 20, "its successor answers")


@covers("4.8-01")
def test_an_application_that_failed(cluster: Cluster) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)never-ready.*no weights here"):
        serve.run(NeverReady.bind(), name="never-ready", route_prefix="/never")
    began = time.monotonic()
    answer = cluster.get("/never")
    assert answer.status == 503 and time.monotonic() - began < 10
    with pytest.raises(DeploymentUnavailableError):
        serve.get_app_handle("never-ready").remote().result(timeout_s=ANSWER_S)
    serve.delete("never-ready", _blocking=False)


@covers("4.8-02")
def test_requests_wait_for_the_first_replica(cluster: Cluster) -> None:
    scales = {"min_replicas": 0, "initial_replicas": 0, "max_replicas": 1, "upscale_delay_s": 0}
    book = Notebook.options(autoscaling_config=scales, ray_actor_options=LIGHT)
    serve.run(book.bind(), name="from-zero", route_prefix="/from-zero")
    assert not serve.status().applications["from-zero"].deployments["Notebook"].replica_states
    assert cluster.get("/from-zero").text == "counted"
    serve.delete("from-zero", _blocking=False)


@covers("4.9-01", "1.15-05")
def test_a_client_that_leaves(cluster: Cluster, notes: Callable[[str], None]) -> None:
    connection = http.client.HTTPConnection(cluster.http_address, timeout=ANSWER_S)
    connection.request("GET", "/filled?do=below")
    notes("began below")
    connection.close()
    notes("cancelled below")


@covers("4.9-02")
def test_deadlines_of_requests(cluster: Cluster, notes: Callable[[str], None]) -> None:
    def status(seconds: str, path: str = "/filled") -> Any:
        return cluster.ask(path, headers={"x-request-timeout-seconds": seconds})

    assert status("0.3", "/filled?do=below").status == 408
    assert status("30").json()["deadline"] is True
    assert status("0").json()["deadline"] is False and status("-1").json()["deadline"] is False
    assert status("soon").status == 400
