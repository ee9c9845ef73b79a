"""Raw bytes that are no proper HTTP: answered 4xx or closed, never forwarded, and no effect on others."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import Iterator, Sequence

import pytest

from tests.proxy.front import Front, front
from tests.proxy.malformed import GET, KINDS, ODD, POST

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def no_traceback(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING and record.exc_info]


def test_the_corpus_is_large_enough() -> None:
    assert sum(map(len, KINDS.values())) >= 300
    assert len(set(itertools.chain(*KINDS.values()))) >= 300


def refused(answer: bytes | BaseException) -> bool:
    if isinstance(answer, asyncio.IncompleteReadError | ConnectionError):
        return True
    return answer == b"" or (isinstance(answer, bytes) and answer[9:10] == b"4")


async def say(proxy: Front, pieces: Sequence[bytes]) -> bytes:
    """All that comes back until the proxy closes, or is silent for longer than any of its limits."""
    reader, writer = await proxy.connect()
    got = b""
    try:
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0.005)  # so that the pieces are read apart; together is another test
        async with asyncio.timeout(3):
            while more := await reader.read(65536):
                got += more
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.transport.abort()
    return got


@pytest.mark.parametrize("kind", KINDS)
async def test_nothing_malformed_is_forwarded(kind: str) -> None:
    async with front() as proxy:
        one = await proxy.replicas.start("one")
        await proxy.serve(one)
        wrong = []
        for group in batches(KINDS[kind], 30):
            answers = await asyncio.gather(*(proxy.raw(data) for data in group), return_exceptions=True)
            wrong += [(d[:80], str(a)[:60]) for d, a in zip(group, answers, strict=True) if not refused(a)]
        assert not wrong
        assert one.handler.started == []
        assert (await proxy.get("/")).status == 200


@pytest.mark.parametrize("kind", KINDS)
async def test_after_a_good_request_and_in_pieces_it_is_not_forwarded_either(kind: str) -> None:
    """The good one before it is answered or cut, and is the only one that reached the application."""
    async with front() as proxy:
        one = await proxy.replicas.start("one")
        await proxy.serve(one)
        good = b"GET /good HTTP/1.1\r\nhost: x\r\nx-request-id: good\r\n\r\n"
        random_cut = random.Random(kind)
        for group in batches(KINDS[kind], 30):
            conversations = []
            for data in group:
                cut = random_cut.randrange(1, len(data))
                conversations.append(say(proxy, [good + data[:cut], data[cut:]]))
            for data, answer in zip(group, await asyncio.gather(*conversations), strict=True):
                assert answer.count(b"HTTP/1.1 2") <= 1, (data[:80], answer)
                assert answer.count(b"HTTP/1.1 5") == 0, (data[:80], answer)
        assert set(one.handler.started) <= {"good"}
        assert len(one.handler.started) <= len(KINDS[kind])


async def test_what_is_odd_but_clear_is_one_request() -> None:
    async with front() as proxy:
        one = await proxy.replicas.start("one")
        await proxy.serve(one)
        for data in ODD:
            one.handler.started.clear()
            answer = await proxy.raw(data)
            assert answer.startswith(b"HTTP/1.1 200") and len(one.handler.started) == 1, data


def batches(cases: Sequence[bytes], size: int) -> Iterator[Sequence[bytes]]:
    for start in range(0, len(cases), size):
        yield cases[start : start + size]


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
