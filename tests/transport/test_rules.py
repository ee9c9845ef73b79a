"""What the two ends promise each other, and what happens to one that breaks a promise."""

from __future__ import annotations

import asyncio

import pytest

from serve_rt.credentials import ClusterToken
from serve_rt.errors import Outcome
from serve_rt.pb import stream_pb2 as pb
from serve_rt.transport import outbox
from serve_rt.transport.data import Data
from serve_rt.transport.flow import PeerFault
from serve_rt.transport.limits import SILENCE_S, WINDOW_BYTES
from serve_rt.transport.parts import client_data, encode_data, open_part, server_data
from serve_rt.transport.states import RequestState
from tests.transport.pair import IDENTITY, Answer, Pair

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_hello_names_the_replica_and_its_capacity() -> None:
    pair = Pair(capacity=7).greet()
    assert pair.client.capacity == 7 and pair.client.has_room() and pair.server.peer == "test"


async def test_a_wrong_token_is_refused_and_nothing_is_started() -> None:
    pair = Pair(token=ClusterToken(b"w" * 32))
    pair.open()
    pair.settle()
    assert pair.client.closed and pair.handler.started == 0 and pair.server.closed
    assert pair.owner.lost == "refused: wrong or missing cluster token"


async def test_a_stranger_on_a_reused_port_is_refused() -> None:
    pair = Pair()
    hello = pb.ClientHello(protocol=1, cluster="test", token=b"t" * 32, replica_id="other", incarnation=1)
    pair.server.receive(pb.ClientFrame(hello=hello).SerializeToString())
    assert pair.server.closed and not pair.service.streams


async def test_a_request_and_its_answer() -> None:
    pair = Pair().greet()
    answer = pair.open(b"ask")
    assert pair.client.reserved == 1
    pair.settle()
    (request,) = pair.handler.running
    part = await request.receive()
    assert part is not None and part.payload == b"ask" and part.end
    assert await request.receive() is None
    request.head(200, [b"a", b"1"], body=b"told", end=True)
    request.finished()
    pair.settle()
    assert answer.ends == ["ended"] and answer.body == b"told"
    assert (pair.client.reserved, pair.service.ongoing, len(pair.server.requests)) == (0, 0, 0)


async def test_accepted_waits_for_a_head_to_ride_in_its_place() -> None:
    pair = Pair().greet()
    answer = pair.open()
    pair.settle()
    assert not answer.started and pair.server.outbox.take() is None
    await asyncio.sleep(0.03)
    pair.settle()
    assert answer.started


async def test_a_full_replica_rejects_owes_and_grants() -> None:
    pair = Pair(capacity=1).greet()
    first, second = pair.open(), pair.open()
    pair.settle()
    assert second.ends == ["rejected"] and first.ends == []
    assert not pair.client.has_room(), "owed a slot: only a grant opens the door"
    pair.handler.running[0].head(200, [], end=True)
    pair.handler.running[0].finished()
    pair.settle()
    assert pair.client.has_room() and pair.client.grants == 1
    third = pair.open()
    pair.settle()
    assert third.ends == [] and pair.service.ongoing == 1


async def test_an_unused_grant_goes_on_to_the_next_caller() -> None:
    one = Pair(capacity=1).greet()
    other = Pair(service=one.service).greet()
    one.open()
    one.settle()
    for pair in (one, other):
        pair.open()
        pair.settle()
    one.handler.running[0].head(200, [], end=True)
    one.handler.running[0].finished()
    one.settle()
    other.settle()
    assert (one.client.grants, other.client.grants) == (1, 0)
    await asyncio.sleep(0.08)
    one.settle()
    other.settle()
    assert (one.client.grants, other.client.grants) == (0, 1)


async def test_cancel_frees_the_slot_when_user_code_has_left() -> None:
    pair = Pair().greet()
    answer = Answer()
    request = pair.client.open(b"", b"", True, answer)
    pair.settle()
    request.cancel("enough")
    pair.settle()
    assert pair.handler.cancelled == ["enough"]
    assert (pair.client.reserved, pair.service.ongoing) == (1, 1), "until user code has left"
    pair.handler.running[0].finished()
    pair.settle()
    assert (pair.client.reserved, pair.service.ongoing) == (0, 0)
    assert answer.ends == [], "nobody waits after a cancel"


async def test_an_open_that_no_write_has_got_is_taken_back() -> None:
    pair = Pair().greet()
    request = pair.client.open(b"", b"", True, Answer())
    assert request.state is RequestState.RESERVED
    request.cancel("never mind")
    pair.settle()
    assert pair.handler.started == 0 and pair.client.reserved == 0


async def test_what_is_known_when_a_stream_breaks() -> None:
    pair = Pair().greet()
    written = pair.open()
    pair.client.outbox.take()  # handed to a write; whether it arrived nobody knows
    reserved = pair.open()
    pair.cut()
    assert written.outcome is Outcome.UNKNOWN and reserved.outcome is Outcome.NOT_STARTED


async def test_above_a_drain_nothing_was_started() -> None:
    pair = Pair().greet()
    seen = pair.open()
    pair.settle()
    pair.server.drain()
    late = pair.open()
    pair.client.outbox.take()  # crosses with the Drain
    pair.down()
    pair.cut()
    assert late.outcome is Outcome.NOT_STARTED
    assert seen.outcome is not Outcome.NOT_STARTED


async def test_opens_above_a_drain_are_rejected() -> None:
    pair = Pair().greet()
    pair.server.drain()
    late = pair.open()
    pair.settle()
    assert late.ends == ["rejected"] and not pair.client.has_room()


async def test_a_caller_that_exceeds_its_window_is_cut() -> None:
    pair = Pair().greet()
    pair.open(end=False)
    pair.settle()
    with pytest.raises(PeerFault, match="window"):
        for _ in range(10):
            pair.server.receive(client_data(encode_data(1, b"x" * (WINDOW_BYTES // 4), False, 0, 0, "")))


async def test_a_replica_that_exceeds_the_window_is_cut() -> None:
    pair = Pair().greet()
    pair.open()
    pair.settle()
    with pytest.raises(PeerFault, match="window"):
        for _ in range(10):
            pair.client.receive(server_data(encode_data(1, b"x" * (WINDOW_BYTES // 4), False, 0, 0, "")))


async def test_ids_are_never_used_twice() -> None:
    pair = Pair().greet()
    frame = open_part(pb.Open(id=5).SerializeToString())
    pair.server.receive(frame)
    with pytest.raises(PeerFault, match="used before"):
        pair.server.receive(frame)


async def test_data_of_a_request_that_never_was_is_a_fault() -> None:
    pair = Pair().greet()
    with pytest.raises(PeerFault, match="never opened"):
        pair.server.receive(client_data(encode_data(3, b"x", True, 0, 0, "")))


async def test_garbage_is_a_fault() -> None:
    pair = Pair().greet()
    with pytest.raises(PeerFault):
        pair.server.receive(b"\xff\xff\xff")
    with pytest.raises(PeerFault):
        pair.client.receive(b"\xff\xff\xff")


async def test_a_reader_that_stops_pauses_the_writer_within_a_window() -> None:
    pair = Pair().greet()
    request = pair.client.open(b"", b"", True, answer := Answer())
    pair.settle()
    running = pair.handler.running[0]
    running.head(200, [])
    sent = 0
    for _ in range(100):
        try:
            async with asyncio.timeout(0.01):
                await running.writable()
        except TimeoutError:
            break
        running.data(b"x" * 16_384)
        sent += 16_384
        pair.settle()
    assert sent <= WINDOW_BYTES + 32_768
    for part in answer.parts:
        if isinstance(part, Data):
            request.consumed(part.payload)
    pair.settle()
    await running.writable()


async def test_silence_is_asked_about_and_then_keeps_new_requests_away() -> None:
    pair = Pair().greet()
    pair.open()
    pair.settle()
    heard = pair.client._heard_s
    pair.client.tick(heard + SILENCE_S)
    pair.client.tick(heard + 2 * SILENCE_S)
    assert pair.client.unresponsive and not pair.client.has_room()
    pair.settle()  # the Pong comes after all
    assert not pair.client.unresponsive and pair.client.has_room()


async def test_a_large_websocket_message_arrives_as_one() -> None:
    pair = Pair().greet()
    request = pair.client.open(b"", b"", False, Answer())
    pair.settle()
    message = bytes(range(256)) * 4000
    request.send(message, kind=pb.DATA_KIND_WS_BINARY)
    receiving = asyncio.ensure_future(pair.handler.running[0].receive())
    while not receiving.done():
        pair.settle()
        await asyncio.sleep(0)
    part = receiving.result()
    assert part is not None and part.payload == message and part.kind == pb.DATA_KIND_WS_BINARY


async def test_an_error_leaves_after_the_data_before_it() -> None:
    pair = Pair().greet()
    request = pair.client.open(b"", b"", True, answer := Answer())
    pair.settle()
    running = pair.handler.running[0]
    running.head(200, [])
    running.data(b"x" * 2 * WINDOW_BYTES)
    running.fail(Outcome.STARTED, "UserError", "late")
    running.finished()
    pair.settle()
    assert answer.ends == [] and pair.service.ongoing == 0
    read = 0
    while not answer.ends:
        for part in answer.parts[read:]:
            if isinstance(part, Data):
                request.consumed(part.payload)
        read = len(answer.parts)
        pair.settle()
    assert answer.ends == ["error UserError"] and len(answer.body) == 2 * WINDOW_BYTES


async def test_who_sends_and_does_not_read_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    pings = pb.ClientFrame(parts=[pb.ClientPart(ping=pb.Ping(nonce=1))] * 10_000).SerializeToString()
    pair = Pair().greet()
    with pytest.raises(PeerFault, match="does not read"):
        for _ in range(21):
            pair.server.receive(pings)
    monkeypatch.setattr(outbox, "UNREAD_PARTS_BYTES", 1 << 20)
    pair = Pair(capacity=5_000).greet()
    for _ in range(2_500):
        pair.open()
    pair.up()
    for running in pair.handler.running:
        running.head(200, [], body=bytes(1000), end=True)
    with pytest.raises(PeerFault, match="does not read"):
        pair.server.receive(b"")
    pair = Pair(capacity=5_000).greet()
    for _ in range(21):
        pair.server.receive(pings)
        while pair.down():
            pass
    assert not pair.server.closed, "who reads may send as much as it likes"


def test_identity_is_part_of_the_hello() -> None:
    assert IDENTITY.replica_id == "app#D#aaaaaa"
