"""The hand-made Open is what protobuf would have made."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from serve_rt.model.routes import AppRoute
from serve_rt.pb import stream_pb2 as pb
from serve_rt.proxy.headers import read_headers
from serve_rt.proxy.open_encoding import fixed_part, open_of_request
from serve_rt.proxy.request_ids import RequestIds
from serve_rt.proxy.routes import Target
from tests.routing.replicas import KEY

TARGET = Target(AppRoute(KEY.app, "/p", KEY.deployment), "/p", "/root/p", KEY, None)
NAMES = st.sampled_from([b"accept", b"x-a", b"x-session-id", b"serve_multiplexed_model_id", b"host"])


@given(st.lists(st.tuples(NAMES, st.binary(max_size=1500)), max_size=6), st.text(max_size=300), st.binary(max_size=200))
def test_it_reads_back(pairs: list[tuple[bytes, bytes]], path: str, query: bytes) -> None:
    scope: dict[str, Any] = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": b"/raw",
        "query_string": query,
        "scheme": "http",
        "http_version": "1.1",
        "client": ("1.2.3.4", 5),
        "server": ("127.0.0.1", 8000),
    }
    headers = read_headers(pairs)
    opened = pb.Open.FromString(
        open_of_request(scope, headers, b"id-1", fixed_part(scope, TARGET, (b"x-forwarded-for", b"1.2.3.4")))
    )
    http = opened.http
    assert (opened.request_id, opened.app, opened.route) == ("id-1", "app", "/p")
    assert (opened.multiplexed_model_id, opened.session_id) == (headers.multiplexed_model_id, headers.session_id)
    assert (http.method, http.path, http.raw_path, http.query_string) == ("GET", path, b"/raw", query)
    assert (http.root_path, http.client_host, http.client_port, http.server_port) == ("/root/p", "1.2.3.4", 5, 8000)
    expected = [b"x-forwarded-for", b"1.2.3.4", *headers.flat, b"x-request-id", b"id-1"]
    assert list(http.headers) == expected + ([b"x-forwarded-host", headers.host] if headers.host else [])


def test_request_ids_are_uuids_that_differ() -> None:
    import uuid

    ids = RequestIds()
    made = [ids.next() for _ in range(1000)]
    assert len(set(made)) == 1000 and all(uuid.UUID(one).version == 4 for one in made)
