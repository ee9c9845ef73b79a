"""What we forward, a second strict parser (h11) reads as the same request: method, target, headers and body.

Two readers of one connection that disagree are how requests are smuggled. Everything of the corpus that we refuse h11
may think of as it likes, and the other way round what h11 refuses we may not forward; the odd requests where we differ
on purpose stand in DIFFERENT with the reason.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

import h11
import pytest

from serve_rt.pb import stream_pb2 as pb
from serve_rt.transport.server import ServerRequest
from tests.proxy.front import front
from tests.proxy.malformed import CHUNKED, GET, HOST, KINDS, ODD, POST

pytestmark = pytest.mark.anyio

OURS = {b"x-request-id", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"}
"""Added or made by the proxy."""
HOP_BY_HOP = {b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"}

DIFFERENT = (
    (
        re.compile(rb"\A[\r\n]+"),
        b"",
        "line ends before a request: RFC 9112 2.2 lets a server skip them; h11 skips none",
    ),
    (
        re.compile(rb"\A([^ \r\n]+) +([^ \r\n]+) +(HTTP/1\.[01]\r\n)"),
        rb"\1 \2 \3",
        "several spaces in the request line are one",
    ),
)
"""What llhttp takes and h11 refuses: what to look for, how h11 would have it, why it is harmless. Nothing else."""

PLAIN = (
    GET + HOST + b"\r\n",
    GET + HOST + b"x: 1\r\nX: 2\r\ncookie: a=b\r\ncookie: c=d\r\naccept: \r\n\r\n",
    b"GET /a%2Fb/%E2%82%AC?q=%00&r=+ HTTP/1.1\r\n" + HOST + b"\r\n",
    b"DELETE /a;b=c?d HTTP/1.1\r\n" + HOST + b"connection: close, x-hop\r\nx-hop: 1\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
    POST + b"content-length: 0\r\n\r\n",
    POST + b"content-length: 5\r\n\r\nhello",
    POST + b"content-length: 5\r\nexpect: 100-continue\r\n\r\nhello",
    CHUNKED + b"\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n",
    CHUNKED + b"\r\n0\r\n\r\n",
    CHUNKED + b"\r\nA\r\n0123456789\r\n0\r\nx: y\r\n\r\n",
    b"PUT /x HTTP/1.0\r\ncontent-length: 3\r\n\r\nabc",
)
"""Proper, but not simple."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass(frozen=True)
class Understood:
    method: str
    target: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


def as_h11(data: bytes) -> tuple[list[Understood], str]:
    """The requests that h11 finds in a connection's bytes, and why it refuses what follows them."""
    for odd, as_it_should_be, _ in DIFFERENT:
        data = odd.sub(as_it_should_be, data)
    found: list[Understood] = []
    connection = h11.Connection(h11.SERVER)
    try:
        connection.receive_data(data)
        connection.receive_data(b"")
        while isinstance(request := connection.next_event(), h11.Request):
            body = b""
            while isinstance(event := connection.next_event(), h11.Data):
                body += bytes(event.data)
            assert isinstance(event, h11.EndOfMessage)
            headers = end_to_end([(bytes(name), bytes(value)) for name, value in request.headers])
            found.append(Understood(request.method.decode(), origin_form(bytes(request.target)), headers, body))
            if request.method == b"CONNECT":
                break
            connection.send(h11.Response(status_code=200, headers=[(b"content-length", b"0")]))
            connection.send(h11.EndOfMessage())
            if connection.our_state is not h11.DONE:
                break
            connection.start_next_cycle()
    except h11.RemoteProtocolError as error:
        return found, str(error)
    return found, ""


def origin_form(target: bytes) -> bytes:
    """`http://x/path` as `/path`: what an application gets of it."""
    scheme, _, rest = target.partition(b"://")
    return b"/" + rest.partition(b"/")[2] if scheme in (b"http", b"https") and rest else target


def end_to_end(headers: list[tuple[bytes, bytes]]) -> tuple[tuple[bytes, bytes], ...]:
    """Without what belongs to one hop, and what proxies say of themselves."""
    gone = _hops(headers) | OURS
    return tuple(header for header in headers if header[0] not in gone)


def _hops(headers: list[tuple[bytes, bytes]]) -> set[bytes]:
    named = {word.strip().lower() for name, value in headers if name == b"connection" for word in value.split(b",")}
    return HOP_BY_HOP | named


class Seen:
    """A handler that keeps what reached it."""

    def __init__(self) -> None:
        self.requests: list[Understood] = []

    def __call__(self, request: ServerRequest) -> None:
        self._reading = asyncio.get_running_loop().create_task(self._read(request), name="read a forwarded request")

    async def _read(self, request: ServerRequest) -> None:
        body = b""
        while (part := await request.receive()) is not None:
            body += part.payload
        self.requests.append(_forwarded(request.open.http, body))
        request.head(200, (b"content-type", b"text/plain"), body=b"ok", end=True)
        request.finished()


def _forwarded(http: pb.HttpHead, body: bytes) -> Understood:
    query = b"?" + http.query_string if http.query_string else b""
    pairs = list(zip(http.headers[::2], http.headers[1::2], strict=True))
    return Understood(http.method, http.raw_path + query, end_to_end(pairs), body)


def mutated(count: int, seed: int) -> list[bytes]:
    """Proper requests with a byte or two changed, added, or taken away where it hurts: mostly around the framing."""
    draw = random.Random(seed)
    special = [b"\r", b"\n", b"\r\n", b" ", b"\t", b"\x00", b":", b",", b";", b"0", b"+", b"-", b"\x0b", b"\x80", b"x"]
    made = []
    for _ in range(count):
        data = draw.choice(PLAIN)
        for _ in range(draw.choice((1, 1, 2))):
            at = draw.randrange(len(data))
            data = data[:at] + draw.choice([*special, b""]) + data[at + draw.choice((0, 1)) :]
        made.append(data)
    return made


async def disagreements(cases: Sequence[bytes]) -> list[str]:
    """What we forwarded and h11 read otherwise, or not at all."""
    found = []
    async with front(head_timeout_s=0.2, body_grace_s=0.2) as proxy:
        one = await proxy.replicas.start("one")
        await proxy.serve(one)
        for data in cases:
            one.handler.act = seen = Seen()
            await asyncio.gather(proxy.raw(data), return_exceptions=True)
            theirs, why = as_h11(data)
            if seen.requests != theirs[: len(seen.requests)]:
                found.append(f"{data!r}: we forwarded {seen.requests}, h11 reads {theirs} {why}")
    return found


async def test_proper_and_odd_requests_are_read_alike() -> None:
    assert not await disagreements([*PLAIN, *ODD])


async def test_nothing_is_lost_of_proper_requests() -> None:
    for data in PLAIN:
        found, why = as_h11(data)
        assert len(found) == 1 and not why, data


async def test_changed_requests_are_read_alike_or_refused() -> None:
    assert not await disagreements(mutated(150, seed=1))


@pytest.mark.chaos
@pytest.mark.timeout(600)
async def test_many_changed_requests_are_read_alike_or_refused() -> None:
    assert not await disagreements(mutated(5000, seed=2))


def test_what_the_corpus_calls_malformed_h11_mostly_refuses_too() -> None:
    """Of what we refuse: the share that the other parser takes as one whole request, so that growing laxer is seen."""
    cases = list(itertools.chain(*KINDS.values()))
    taken = [data for data in cases if as_h11(data)[0]]
    print(f"h11 takes {len(taken)} of {len(cases)} that we refuse")
    assert len(taken) < len(cases) / 2
