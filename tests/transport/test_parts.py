"""Parts laid out by hand are what the generated classes read."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serve_rt.pb import stream_pb2 as pb
from serve_rt.transport.parts import (
    accepted_part,
    client_data,
    encode_data,
    encode_open,
    head_part,
    http_of_open,
    open_part,
    server_data,
    varint,
)


@given(st.integers(min_value=0, max_value=2**63 - 1))
def test_varint_is_protobufs(value: int) -> None:
    assert pb.Ping(nonce=value).SerializeToString() == (b"\x08" + varint(value) if value else b"")


@given(
    st.integers(min_value=1, max_value=2**62),
    st.binary(max_size=40_000),
    st.booleans(),
    st.sampled_from([0, 1, 2, 3, 4]),
    st.integers(min_value=0, max_value=5000),
    st.text(max_size=20),
)
def test_data_reads_back(request_id: int, payload: bytes, end: bool, kind: int, code: int, reason: str) -> None:
    frame = pb.ServerFrame.FromString(server_data(encode_data(request_id, payload, end, kind, code, reason)))
    data = frame.parts[0].data
    assert (data.id, data.payload, data.end, data.kind, data.code, data.reason) == (
        request_id,
        payload,
        end,
        kind,
        code,
        reason,
    )


@given(st.lists(st.binary(max_size=300), max_size=5))
def test_a_frame_is_its_parts_one_after_the_other(bodies: list[bytes]) -> None:
    made = [open_part(pb.Open(id=n, body=body).SerializeToString()) for n, body in enumerate(bodies, 1)]
    frame = pb.ClientFrame.FromString(b"".join(made) + client_data(encode_data(9, b"x", True, 0, 0, "")))
    assert [part.WhichOneof("part") for part in frame.parts] == ["open"] * len(bodies) + ["data"]
    assert [part.open.body for part in frame.parts[:-1]] == bodies


def test_lengths_on_the_edge_of_one_byte() -> None:
    for size in range(100, 140):
        head = pb.Head(id=1, status=200, body=b"b" * size)
        frame = pb.ServerFrame.FromString(accepted_part(b"\x08\x01") + head_part(head.SerializeToString()))
        assert frame.parts[1].head == head


@given(st.integers(1, 2**40), st.integers(0, 2**31), st.binary(max_size=300), st.booleans(), st.text(max_size=200))
def test_an_open_reads_back(request_id: int, left_ms: int, body: bytes, end: bool, path: str) -> None:
    http = pb.HttpHead(method="GET", path=path)
    rest = pb.Open(app="a").SerializeToString() + http_of_open(http.SerializeToString())
    opened = pb.Open.FromString(encode_open(request_id, left_ms, rest, body, end))
    assert opened == pb.Open(id=request_id, time_left_ms=left_ms, app="a", http=http, body=body, end=end)
