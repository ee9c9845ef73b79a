"""The life of one request over real processes: cancellation, deadlines, ids, and a queue that is full."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cluster.harness import LocalCluster
from tests.cluster.processes import eventually


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    one = LocalCluster()
    try:
        one.start_node()
        one.deploy("echo")
        one.deploy("echo", name="narrow", route="/narrow", max_ongoing_requests=1, max_queued_requests=1)
        yield one
    finally:
        one.close()


def _connect(cluster: LocalCluster) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", cluster.node.http_port, timeout=30)


def test_longest_prefix_and_unknown_routes(cluster: LocalCluster) -> None:
    assert cluster.node.http("/narrow?nonce=a")[0] == 200
    routes = cluster.node.json("/-/routes")
    assert set(routes) >= {"/", "/narrow"}
    assert cluster.node.http("/-/healthz")[0] == 200


def test_request_id_is_kept_or_made(cluster: LocalCluster) -> None:
    connection = _connect(cluster)
    connection.request("GET", "/?nonce=a", headers={"x-request-id": "abc-1"})
    answer = connection.getresponse()
    answer.read()
    assert answer.headers["x-request-id"] == "abc-1"
    connection.request("GET", "/?nonce=a")
    answer = connection.getresponse()
    answer.read()
    assert len(answer.headers["x-request-id"]) >= 8
    connection.close()


def test_deadline_is_408_in_time(cluster: LocalCluster) -> None:
    started = time.monotonic()
    status, _ = cluster.node.http("/sleep?s=10", headers={"x-request-timeout-seconds": "0.5"})
    assert status == 408 and 0.4 < time.monotonic() - started < 2.0


def test_client_that_leaves_frees_the_slot(cluster: LocalCluster) -> None:
    connection = _connect(cluster)
    connection.request("GET", "/narrow/sleep?s=20")
    time.sleep(0.3)  # it holds the only slot
    with pytest.raises(TimeoutError):
        cluster.node.http("/narrow?nonce=a", timeout_s=0.3)
    connection.close()
    started = time.monotonic()
    assert cluster.node.http("/narrow?nonce=a")[0] == 200
    assert time.monotonic() - started < 1.0, "the slot is free when the cancelled work has ended"


def test_full_queue_is_503_with_retry_after(cluster: LocalCluster) -> None:
    with ThreadPoolExecutor(2) as pool:
        slow = [pool.submit(cluster.node.http, "/narrow/sleep?s=2") for _ in range(2)]
        # Both must be in their places first: a third one that comes earlier takes the place of the second.
        eventually(lambda: _counts(cluster) == (1, 1), 1.5, "one runs and one waits")
        eventually(lambda: _refused(cluster), 1.5, "a third request is refused")
        assert [one.result()[0] for one in slow] == [200, 200]


def _counts(cluster: LocalCluster) -> tuple[int, int]:
    counters = cluster.node.json("/-/counters")
    return counters["reserved"], counters["waiting"]


def _refused(cluster: LocalCluster) -> bool:
    connection = _connect(cluster)
    try:
        connection.request("GET", "/narrow?nonce=a", headers={"x-request-timeout-seconds": "0.2"})
        answer = connection.getresponse()
        answer.read()
        return answer.status == 503 and "retry-after" in answer.headers
    finally:
        connection.close()


def test_user_exception_is_500_without_traceback(cluster: LocalCluster) -> None:
    status, body = cluster.node.http("/", method="POST", body=b"[]", headers={"content-type": "application/json"})
    assert status == 500 and b"Traceback" not in body


def test_stream_is_complete_and_in_order(cluster: LocalCluster) -> None:
    _, body = cluster.node.http("/stream?nonce=n&count=50")
    assert body.decode().splitlines()[:-1] == [f"n {index}" for index in range(50)]


def test_large_body_comes_through_whole(cluster: LocalCluster) -> None:
    nonce = "x" * (3 << 20)
    status, body = cluster.node.http("/", method="POST", body=json.dumps({"nonce": nonce}).encode())
    assert status == 200 and json.loads(body)["nonce"] == nonce
