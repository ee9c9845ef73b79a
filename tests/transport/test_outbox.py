"""How queued parts become frames: order, sizes, turns, credit."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from serve_rt.pb import stream_pb2 as pb
from serve_rt.transport.limits import FRAME_BYTES, PART_COST_BYTES, SHARED_PIECE_BYTES, WINDOW_BYTES
from serve_rt.transport.outbox import Lane, Outbox
from serve_rt.transport.parts import ping_part, server_data

OVERHEAD_BYTES = 1024


def lane(outbox: Outbox, request_id: int) -> Lane:
    return Lane(outbox, request_id, lambda: None, WINDOW_BYTES)


def parts_of(frame: bytes | None) -> list[pb.Data]:
    assert frame is not None
    return [part.data for part in pb.ServerFrame.FromString(frame).parts]


def test_a_window_is_sent_and_no_more() -> None:
    outbox = Outbox(server_data)
    one = lane(outbox, 1)
    one.put(b"x" * 2 * WINDOW_BYTES, True)
    sent = 0
    while (frame := outbox.take()) is not None:
        sent += sum(len(part.payload) + PART_COST_BYTES for part in parts_of(frame))
    assert WINDOW_BYTES - 20_000 < sent <= WINDOW_BYTES
    one.grant(1000)
    assert outbox.take() is None, "a large payload must not crumble into small pieces"
    one.grant(WINDOW_BYTES)
    assert parts_of(outbox.take())


def test_requests_take_turns_and_pieces_shrink_when_others_wait() -> None:
    outbox = Outbox(server_data)
    lanes = [lane(outbox, n) for n in range(1, 4)]
    for each in lanes:
        each.put(b"x" * 200_000, True)
    first = parts_of(outbox.take())
    assert [part.id for part in first] == [1, 2, 3]
    assert all(len(part.payload) <= SHARED_PIECE_BYTES for part in first)


def test_control_goes_first_and_data_never_before_its_head() -> None:
    outbox = Outbox(server_data)
    lane(outbox, 1).put(b"data", True)
    outbox.put(ping_part(b""))
    frame = outbox.take()
    assert frame is not None and frame.startswith(ping_part(b""))


def test_a_part_can_be_taken_back_until_it_is_written() -> None:
    outbox = Outbox(server_data)
    first, second = outbox.put(b"first"), outbox.put(b"second")
    assert outbox.withdraw(first)
    assert outbox.take() == b"second"
    assert not outbox.withdraw(second)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 90_000)), max_size=30),
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 200_000)), max_size=30),
)
def test_bytes_arrive_complete_and_in_order(puts: list[tuple[int, int]], grants: list[tuple[int, int]]) -> None:
    outbox = Outbox(server_data)
    lanes = [lane(outbox, n) for n in range(4)]
    wanted: dict[int, bytes] = {n: b"" for n in range(4)}
    got: dict[int, bytes] = {n: b"" for n in range(4)}

    def drain() -> None:
        while (frame := outbox.take()) is not None:
            assert len(frame) <= FRAME_BYTES + OVERHEAD_BYTES
            for part in parts_of(frame):
                got[part.id] += part.payload

    for number, (which, size) in enumerate(puts):
        payload = bytes([number % 251]) * size
        wanted[which] += payload
        lanes[which].put(payload, False)
        if number % 3 == 0:
            drain()
    for which, count in grants:
        lanes[which].grant(count)
        drain()
    assert all(wanted[n].startswith(got[n]) for n in range(4))
    for each in lanes:
        each.grant(10_000_000)
    drain()
    assert got == wanted
    assert all(each.backlog == 0 for each in lanes)
