"""What user code or a peer may say that cannot be written down: one request pays for it, nobody else."""

from __future__ import annotations

import random

import pytest

from serve_rt.errors import Outcome
from serve_rt.pb import stream_pb2 as pb
from serve_rt.transport import server_stream
from serve_rt.transport.flow import PeerFault
from tests.transport.pair import Pair

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_an_error_message_with_lone_surrogates_reaches_the_caller() -> None:
    pair = Pair().greet()
    answer = pair.open()
    pair.up()
    pair.handler.running[0].fail(Outcome.STARTED, "UserError", "no file \udcff", traceback="at \ud800")
    pair.handler.running[0].finished()
    pair.settle()
    assert answer.ends == ["error UserError"]
    assert pair.client.reserved == 0 and pair.service.ongoing == 0


async def test_a_status_that_is_no_number_of_the_wire_is_the_request_s_error() -> None:
    pair = Pair().greet()
    answer = pair.open()
    pair.up()
    pair.handler.running[0].head(10**12, (), end=True)
    pair.handler.running[0].finished()
    pair.settle()
    assert answer.ends == ["error UserError"] and pair.service.ongoing == 0


async def test_a_close_that_cannot_be_encoded_does_not_end_the_stream() -> None:
    pair = Pair().greet()
    answer, other = pair.open(), pair.open()
    pair.up()
    bad, good = pair.handler.running
    bad.data(b"", end=True, kind=pb.DATA_KIND_WS_CLOSE, code=10**12, reason="bye \ud800")
    bad.finished()
    good.data(b"fine", end=True)
    good.finished()
    pair.settle()
    assert answer.ends == other.ends == ["ended"] and other.body == b"fine"


async def test_a_stream_with_too_many_requests_is_owed_a_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller opens nothing after a Rejected until it was granted something: a Rejected without a debt silences it."""
    monkeypatch.setattr(server_stream, "IN_FLIGHT", 1)
    pair = Pair(capacity=10).greet()
    pair.open()
    refused = pair.open()
    pair.settle()
    assert refused.ends == ["rejected"] and not pair.client.has_room()
    pair.handler.running[0].head(200, (), end=True)
    pair.handler.running[0].finished()
    pair.settle()
    assert pair.client.has_room()
    pair.cut()


@pytest.mark.parametrize("seed", range(200))
async def test_mangled_frames_end_the_stream_or_nothing(seed: int) -> None:
    """Truncated, bit-flipped and random frames, both ways: PeerFault at worst, and nothing stays counted."""
    dice = random.Random(seed)
    pair = Pair(capacity=4).greet()
    for _ in range(4):
        pair.open(b"body" * dice.randrange(50), dice.random() < 0.5)
    frame = _mangled(pair.client.outbox.take() or b"", dice)
    try:
        pair.server.receive(frame)
    except PeerFault as fault:
        pair.server.lost(str(fault))
    for request in tuple(pair.handler.running):
        request.data(b"x" * 100, end=True)
        request.finished()
    answers = _mangled(pair.server.outbox.take() or b"", dice)
    try:
        pair.client.receive(answers)
    except PeerFault as fault:
        pair.client.lost(str(fault))
    pair.cut()
    assert pair.service.ongoing == 0 and pair.client.reserved == 0 and not pair.service.streams


def _mangled(frame: bytes, dice: random.Random) -> bytes:
    how = dice.randrange(3)
    if how == 0 or not frame:
        return dice.randbytes(dice.randrange(200))
    if how == 1:
        return frame[: dice.randrange(len(frame))]
    mangled = bytearray(frame)
    for _ in range(dice.randrange(1, 6)):
        mangled[dice.randrange(len(mangled))] ^= 1 << dice.randrange(8)
    return bytes(mangled)


@pytest.mark.parametrize("polite", [True, False])
async def test_a_request_given_up_by_the_replica_does_not_hang(polite: bool) -> None:
    """A replica that closes its streams cancels its user code, and may still write: no Ended for who never left."""
    pair = Pair().greet()
    answer = pair.open()
    pair.settle()
    request = pair.handler.running[0]
    if polite:
        pair.server.lost("the replica is stopping")
    else:  # a peer of another mind
        pair.client.receive(pb.ServerFrame(parts=[pb.ServerPart(ended=pb.Ended(id=1))]).SerializeToString())
    request.finished()
    pair.settle()
    pair.client.lost("the connection is gone")
    assert answer.ends == ["lost"] and pair.client.reserved == 0 and pair.service.ongoing == 0
    pair.cut()
