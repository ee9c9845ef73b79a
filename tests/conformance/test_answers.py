"""What comes out over HTTP for what a handler returns."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator
from typing import Any

import pytest

import serve_rt as serve
from tests.conformance.apps_hooks import Answers, Generator, SyncAnswers, async_generator
from tests.conformance.asking import Cluster
from tests.conformance.bullets import covers


@pytest.fixture(scope="module", autouse=True)
def apps(cluster: Cluster) -> Iterator[None]:
    targets = [
        serve.RunTarget(Answers.bind(), "answers", "/answers"),
        serve.RunTarget(SyncAnswers.bind(), "sync answers", "/sync"),
        serve.RunTarget(Generator.bind(), "generator", "/generator"),
        serve.RunTarget(async_generator.bind(), "async generator", "/async_generator"),
    ]
    serve.run_many(targets)
    yield
    for target in targets:
        serve.delete(target.name, _blocking=False)


@pytest.fixture(params=["/answers", "/sync"])
def prefix(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@covers("1.10-16")
@pytest.mark.parametrize(
    ("kind", "content_type", "body"),
    [
        ("none", "text/plain", b""),
        ("text", "text/plain; charset=utf-8", "grüße".encode()),
        ("bytes", "text/plain", b"\x00\xff"),
    ],
)
def test_plain(cluster: Cluster, prefix: str, kind: str, content_type: str, body: bytes) -> None:
    answer = cluster.get(f"{prefix}?kind={kind}")
    assert (answer.status, answer.body) == (200, body)
    assert answer.headers["content-type"].startswith(content_type)


@covers("1.10-16", "1.10-17")
@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("dict", {"a": [1, 2.5, None, True]}),
        ("list", [1, "two"]),
        ("number", 42),
        ("false", False),
        ("model", {"x": 1, "y": 2.5}),
        ("models", {"points": [{"x": 1, "y": 2}]}),
        ("dataclass", {"left": "l", "right": [1]}),
        ("array", [[0, 1], [2, 3]]),
        ("scalar", {"f": 0.5, "i": 7, "b": True}),
        ("exception", {"error": "as a value"}),
        ("set", {"s": [3]}),
    ],
)
def test_json(cluster: Cluster, prefix: str, kind: str, value: Any) -> None:
    answer = cluster.get(f"{prefix}?kind={kind}")
    assert answer.json() == value
    assert answer.headers["content-type"] == "application/json"


@covers("1.10-16")
def test_json_is_compact(cluster: Cluster) -> None:
    assert cluster.get("/answers?kind=dict").text == '{"a":[1,2.5,null,true]}'


@covers("1.10-16")
def test_responses_as_they_are(cluster: Cluster, prefix: str) -> None:
    html = cluster.get(f"{prefix}?kind=html")
    assert (html.status, html.text, html.headers["x-made-by"]) == (201, "<p>hi</p>", "hand")
    assert html.headers["content-type"].startswith("text/html")
    teapot = cluster.get(f"{prefix}?kind=json")
    assert (teapot.status, teapot.text) == (418, '{"a":1}')
    redirect = cluster.get(f"{prefix}?kind=redirect")
    assert (redirect.status, redirect.headers["location"]) == (303, "/elsewhere")


@covers("1.10-18")
def test_streaming_responses(cluster: Cluster, prefix: str) -> None:
    answer = cluster.get(f"{prefix}?kind=stream")
    assert (answer.status, answer.text) == (202, "0\n1\n2\n")
    assert "content-length" not in answer.headers


@covers("1.10-18")
def test_pieces_come_when_they_are_made(cluster: Cluster) -> None:
    connection = http.client.HTTPConnection(cluster.http_address, timeout=20)
    try:
        connection.request("GET", "/answers?kind=slow")
        answer = connection.getresponse()
        first = answer.readline().split()
        seen_at_s = time.time()
        rest = answer.read().split()
    finally:
        connection.close()
    assert first[0] == b"0" and float(rest[-1]) > float(first[1])
    assert seen_at_s < float(rest[-1]) + 0.05, "the first piece was here before the last one was made"


@covers("1.10-19")
def test_generators_stream(cluster: Cluster) -> None:
    answer = cluster.get("/generator")
    assert (answer.status, answer.text) == (200, 'one\ntwo\n{"three":3}\n')
    assert cluster.get("/async_generator?last=z").text == "abz"


@covers("1.10-20")
def test_exceptions(cluster: Cluster) -> None:
    answer = cluster.ask("/answers?kind=raise", headers={"x-request-id": "my-request"})
    assert answer.status == 500
    assert "secret words" not in answer.text
    assert answer.headers["x-request-id"] == "my-request" and "my-request" in answer.text
    assert cluster.get("/answers?kind=number").json() == 42, "the replica goes on"


@covers("1.10-15")
def test_requests_arrive_whole(cluster: Cluster) -> None:
    headers = {"x-mine": "yes", "cookie": "c=d"}
    answer = cluster.ask("/answers?kind=echo&n=%20a", method="PATCH", body="grüße".encode(), headers=headers).json()
    query = {"kind": "echo", "n": " a"}
    assert answer == {"method": "PATCH", "query": query, "header": "yes", "cookie": "d", "body": "grüße"}
