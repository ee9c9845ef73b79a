"""Frames of large parts are written and read by hand, and say what protobuf would say."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_rt.pb import stream_pb2 as pb
from serve_rt.transport.data import Data, read_data, reader
from serve_rt.transport.limits import LARGE_PART_BYTES, WINDOW_BYTES
from serve_rt.transport.outbox import Lane, Outbox
from serve_rt.transport.parts import client_data, encode_data, server_data

FRAMES: dict[bool, Any] = {True: pb.ClientFrame, False: pb.ServerFrame}  # Any: two generated classes
READERS = {True: reader(pb.ClientFrame, pb.ClientPart), False: reader(pb.ServerFrame, pb.ServerPart)}
WRAPS = {True: client_data, False: server_data}
SIZES = st.one_of(st.integers(0, 300), st.integers(LARGE_PART_BYTES - 200, LARGE_PART_BYTES + 200))
DATA = st.tuples(st.integers(0, 2**63), SIZES, st.booleans(), st.sampled_from([0, 0, 1, 3]), st.sampled_from([0, 1001]))


def said(part: Any) -> Any:  # Any: a Data, or a protobuf part
    data = part if type(part) is Data else read_data(part.data) if part.WhichOneof("part") == "data" else None
    return part if data is None else (data.id, data.payload, data.end, data.kind, data.code, data.reason)


@given(st.booleans(), st.lists(DATA, max_size=4), st.binary(max_size=3), st.integers(0, 10**9))
@settings(deadline=None, max_examples=150)
def test_a_frame_says_what_protobuf_says(up: bool, parts: list[Any], spoilt: bytes, where: int) -> None:
    """Whole, and with a few bytes changed: then either both read the same, or it is left to protobuf."""
    wrap = WRAPS[up]
    frame = b"".join(
        wrap(encode_data(number, b"\x12" * size, end, kind, code, "why" if code else ""))
        for number, size, end, kind, code in parts
    )
    mine = READERS[up](frame)
    assert mine is not None
    assert [said(part) for part in mine] == [said(part) for part in FRAMES[up].FromString(frame).parts]
    if frame and spoilt:
        at = where % len(frame)
        frame = frame[:at] + spoilt + frame[at + len(spoilt) :]
        mine = READERS[up](frame)
        if mine is not None:
            assert [said(part) for part in mine] == [said(part) for part in FRAMES[up].FromString(frame).parts]


@pytest.mark.parametrize("cut", [1, 2, 5, 100, LARGE_PART_BYTES])
def test_a_frame_that_breaks_off_is_left_to_protobuf(cut: int) -> None:
    frame = server_data(encode_data(7, b"x" * 2 * LARGE_PART_BYTES, True, 0, 0, ""))[:-cut]
    assert READERS[False](frame) is None
    with pytest.raises(DecodeError):
        pb.ServerFrame.FromString(frame)


def test_a_length_without_end_is_left_to_protobuf() -> None:
    assert READERS[False](b"\x1a" + b"\xff" * 1_000_000) is None


@given(st.booleans(), st.integers(1, 2**63), st.integers(1, WINDOW_BYTES - 64), st.booleans())
@settings(deadline=None, max_examples=60)
def test_body_bytes_leave_as_protobuf_reads_them(up: bool, number: int, size: int, end: bool) -> None:
    outbox = Outbox(WRAPS[up])
    lane = Lane(outbox, number, lambda: None, WINDOW_BYTES)
    lane.put(b"y" * size, end)
    frame = outbox.take()
    assert frame is not None
    [part] = FRAMES[up].FromString(frame).parts
    assert (part.data.id, part.data.payload, part.data.end) == (number, b"y" * size, end)
    assert part.data.kind == 0 and frame == WRAPS[up](encode_data(number, b"y" * size, end, 0, 0, ""))
