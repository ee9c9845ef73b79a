"""Raw bytes that are no proper HTTP: answered 4xx or closed, never forwarded, and no effect on others."""

from __future__ import annotations

import asyncio

import pytest

from tests.proxy.front import front

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


GET = b"GET / HTTP/1.1\r\n"
POST = b"POST / HTTP/1.1\r\nhost: x\r\n"
CONTROLS = [bytes((n,)) for n in (*range(9), 11, 12, *range(14, 32), 127)]

CORPUS: list[bytes] = [
    GET + b"\r\n",  # no Host
    GET + b"host: a\r\nhost: b\r\n\r\n",
    GET + b"host: a\r\nHost: a\r\n\r\n",
    GET + b"host : x\r\n\r\n",
    GET + b" host: x\r\n\r\n",
    GET + b"host: x\r\n folded: y\r\n\r\n",
    GET + b"host: x\r\nno-colon\r\n\r\n",
    GET + b"host: x\r\n: empty-name\r\n\r\n",
    GET + b"host: x\r\nna me: v\r\n\r\n",
    b"GET / HTTP/1.1\nhost: x\n\n",
    b"GET / HTTP/9.9\r\nhost: x\r\n\r\n",
    b"GET / HTTP/1.1 extra\r\nhost: x\r\n\r\n",
    b"get / HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET/HTTP/1.1\r\nhost: x\r\n\r\n",
    b"FROBNICATE / HTTP/1.1\r\nhost: x\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS to a plain port
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x00" * 100,
    b"\r\n\r\n\r\nGARBAGE\r\n\r\n",
    GET + b"host: x\r\nx: " + b"a" * 70_000 + b"\r\n\r\n",
    GET + b"host: x\r\n" + b"".join(b"h%d: v\r\n" % n for n in range(500)) + b"\r\n",
    b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
    POST + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello",
    POST + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    POST + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
    POST + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    POST + b"transfer-encoding: identity, chunked, identity\r\n\r\n0\r\n\r\n",
    POST + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    POST + b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
    POST + b"content-length: -1\r\n\r\n",
    POST + b"content-length: +5\r\n\r\nhello",
    POST + b"content-length: 5 5\r\n\r\nhello",
    POST + b"content-length: 0x5\r\n\r\nhello",
    POST + b"content-length: 5,5\r\n\r\nhello",
    POST + b"content-length: 99999999999999999999999\r\n\r\n",
    POST + b"content-length: 5.0\r\n\r\nhello",
    POST + b"content-length: \r\n\r\n",
    POST + b"transfer-encoding: chunked\r\n\r\nxyz\r\nhello\r\n0\r\n\r\n",
    POST + b"transfer-encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
    POST + b"transfer-encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n",
    POST + b"transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
    *[GET + b"host: x\r\nx: a" + control + b"b\r\n\r\n" for control in CONTROLS if control != b"\x00"],
    *[GET + b"host: x\r\nx" + control + b"y: v\r\n\r\n" for control in CONTROLS],
]
# What llhttp takes although it is odd, and what is odd but harmless, is not in here: it must be forwarded intact.


def test_the_corpus_is_large_enough() -> None:
    assert len(CORPUS) >= 90


async def test_nothing_malformed_is_forwarded() -> None:
    async with front() as proxy:
        one = await proxy.replicas.start("one")
        await proxy.serve(one)
        wrong = []
        for group in _tens():
            answers = await asyncio.gather(*(proxy.raw(data) for data in group), return_exceptions=True)
            for data, answer in zip(group, answers, strict=True):
                refused = answer == b"" or isinstance(answer, asyncio.IncompleteReadError | ConnectionError)
                if not refused and not (isinstance(answer, bytes) and answer[9:10] == b"4"):
                    wrong.append((data[:80], str(answer)[:60]))
        assert not wrong
        assert one.handler.started == []
        assert (await proxy.get("/")).status == 200


def _tens() -> list[tuple[bytes, ...]]:
    return [tuple(CORPUS[n : n + 10]) for n in range(0, len(CORPUS), 10)]


async def test_a_megabyte_of_headers_is_431_and_is_not_kept() -> None:
    async with front() as proxy:
        one = await proxy.replicas.start("one")
        await proxy.serve(one)
        reader, writer = await proxy.connect()
        writer.write(GET + b"host: x\r\n")
        for _ in range(1000):
            writer.write(b"x: " + b"a" * 1000 + b"\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 431")
        assert one.handler.started == []


async def test_a_long_url_is_414() -> None:
    async with front() as proxy:
        assert (await proxy.raw(b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n")).startswith(b"HTTP/1.1 414")


async def test_slow_and_silent_connections_are_closed() -> None:
    async with front() as proxy:
        silent, _ = await proxy.connect()
        slow, slow_writer = await proxy.connect()
        slow_writer.write(b"GET / HT")
        assert await asyncio.wait_for(silent.read(), 3) == b""
        assert (await asyncio.wait_for(slow.read(), 3)).startswith(b"HTTP/1.1 408")


async def test_a_body_that_stops_is_408_and_holds_no_slot() -> None:
    async with front() as proxy:
        one = await proxy.replicas.start("one")
        await proxy.serve(one)
        reader, writer = await proxy.connect()
        writer.write(POST + b"content-length: 10\r\n\r\nabc")
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 3)).startswith(b"HTTP/1.1 408")
        assert one.handler.started == []


async def test_too_many_connections_are_refused() -> None:
    async with front(connections=3) as proxy:
        await proxy.serve(await proxy.replicas.start("one"))
        held = [await proxy.connect() for _ in range(3)]
        assert (await proxy.raw(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")).startswith(b"HTTP/1.1 503")
        assert len(held) == 3
