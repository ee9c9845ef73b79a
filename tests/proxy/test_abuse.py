"""Clients that are slow, deaf or without measure: they get their refusal, and nobody else notices."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import resource
import socket
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from serve_rt.transport.server import ServerRequest
from tests.proxy.front import APP, Front, front, read_answer
from tests.routing.replicas import until

pytestmark = pytest.mark.anyio

GOOD = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@contextlib.asynccontextmanager
async def a_good_client(proxy: Front) -> AsyncIterator[list[bytes]]:
    """Asks all the time, half of it on one connection; its answers."""
    answers: list[bytes] = []
    reader, writer = await proxy.connect()

    async def ask() -> None:
        for number in itertools.count():
            if number % 2:
                answers.append(await proxy.raw(GOOD))
            else:
                writer.write(GOOD)
                answers.append(await read_answer(reader))
            await asyncio.sleep(0.005)

    asking = asyncio.create_task(ask(), name="a good client")
    try:
        yield answers
        before = len(answers)
        await until(lambda: len(answers) > before + 4, "it is answered still")
    finally:
        asking.cancel()
        await asyncio.wait({asking})
        writer.transport.abort()
        if not asking.cancelled():
            asking.result()
    assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers)


async def dribble(writer: asyncio.StreamWriter, data: bytes, pause_s: float = 0.05) -> None:
    """A byte at a time, for ever."""
    with contextlib.suppress(ConnectionError):
        for byte in itertools.cycle(data):
            writer.write(bytes((byte,)))
            await asyncio.sleep(pause_s)
            await writer.drain()


async def told_while_dribbling(proxy: Front, head: bytes, drops: bytes, pause_s: float = 0.05) -> bytes:
    reader, writer = await proxy.connect()
    writer.write(head)
    dribbling = asyncio.create_task(dribble(writer, drops, pause_s), name="dribble")
    said = b""
    try:
        async with asyncio.timeout(10):
            while more := await reader.read(
                4096
            ):  # in pieces: a reset by what was dribbled later takes none of it back
                said += more
            return said
    except ConnectionError:
        return said or b"reset"
    finally:
        dribbling.cancel()


async def test_slow_loris_is_408_and_good_clients_lose_nothing() -> None:
    async with front(connections=1000, head_timeout_s=1.0) as proxy:
        await proxy.serve(await proxy.replicas.start("one"))
        async with a_good_client(proxy):
            heads = [b"", b"GET / HTTP/1.1\r\nx: ", b"GET /", b"GET / HTTP/1.1\r\nhost: x\r\nx-"] * 50
            said = await asyncio.gather(*(told_while_dribbling(proxy, head, b"Ga", 0.1) for head in heads))
        assert all(answer.startswith((b"HTTP/1.1 408", b"HTTP/1.1 400")) for answer in said)
        assert sum(answer.startswith(b"HTTP/1.1 408") for answer in said) >= 150
        await until(lambda: proxy.server.connections <= 2, "nothing is left of them")


async def test_a_byte_now_and_then_does_not_keep_an_idle_connection() -> None:
    """Empty lines before a request are allowed, and are no request."""
    async with front(keep_alive_timeout_s=0.5) as proxy:
        await proxy.serve(await proxy.replicas.start("one"))
        said = await told_while_dribbling(proxy, GOOD, b"\r\n")
        assert said.startswith(b"HTTP/1.1 200") or said == b"reset"


async def test_a_slow_body_is_408_and_holds_no_slot() -> None:
    async with front() as proxy:
        one = await proxy.replicas.start("one", capacity=1)
        await proxy.serve(one)
        async with a_good_client(proxy):
            sized = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n"
            chunked = b"POST / HTTP/1.1\r\nhost: x\r\nx-request-id: slow\r\ntransfer-encoding: chunked\r\n\r\n"
            said = await asyncio.gather(
                told_while_dribbling(proxy, sized, b"x"), told_while_dribbling(proxy, chunked, b"1\r\nx\r\n")
            )
        assert all(answer.startswith(b"HTTP/1.1 408") for answer in said)
        assert "slow" not in one.handler.started


async def test_a_long_body_that_gets_slow_gives_its_slot_back() -> None:
    async with front() as proxy:
        one = await proxy.replicas.start("one", capacity=1)
        one.handler.act = one.handler.hold
        await proxy.serve(one, app=replace(APP, body_buffer_bytes=1000))
        head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n" + b"x" * 5000
        assert (await told_while_dribbling(proxy, head, b"x")).startswith(b"HTTP/1.1 408")
        await until(lambda: one.service.ongoing == 0 and len(one.handler.cancelled) == 1, "it was cancelled")


async def test_a_body_that_is_fast_enough_may_take_its_time() -> None:
    async with front(body_grace_s=0.3, body_bytes_per_s=1000) as proxy:
        await proxy.serve(await proxy.replicas.start("one"))
        reader, writer = await proxy.connect()
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5000\r\n\r\n")
        for _ in range(10):
            await asyncio.sleep(0.1)
            writer.write(b"x" * 500)
        assert (await read_answer(reader)).endswith(b"x" * 5000)


async def push(proxy: Front, head: bytes, piece: bytes, most_bytes: int) -> tuple[bytes, int]:
    """Send pieces until the proxy stops it; what it said, and how much it took. A thread's blocking socket, as most
    clients have: it sees an answer that was written before the connection was reset."""

    def pushing() -> tuple[bytes, int]:
        sent = 0
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as client:
            client.sendall(head)
            try:
                while sent < most_bytes:
                    client.sendall(piece)
                    sent += len(piece)
            except OSError:
                pass
            try:
                return client.recv(65536), sent
            except OSError:
                return b"reset", sent

    return await asyncio.to_thread(pushing)


@pytest.mark.parametrize("framing", ["content-length: 10000000000", "transfer-encoding: chunked"])
async def test_a_huge_body_is_413_and_is_not_read(framing: str) -> None:
    async with front(body_bytes=100_000) as proxy:
        one = await proxy.replicas.start("one")
        await proxy.serve(one)
        head = f"POST / HTTP/1.1\r\nhost: x\r\n{framing}\r\n\r\n".encode()
        piece = b"x" * 65536 if "length" in framing else b"10000\r\n" + b"x" * 65536 + b"\r\n"
        reader, writer = await proxy.connect()
        writer.write(head + piece * 3)
        assert (await read_answer(reader)).startswith(b"HTTP/1.1 413")
        before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        async with a_good_client(proxy):
            await push(proxy, head, piece, 10_000_000_000)
        grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
        assert grown_kib < 30_000, f"{grown_kib} KiB more"
        await until(lambda: proxy.server.connections == 0, "and its connection is closed")


async def test_a_body_after_its_answer_is_not_read_for_ever() -> None:
    async with front(body_bytes=1 << 40) as proxy:
        one = await proxy.replicas.start("one")
        await proxy.serve(one, app=replace(APP, body_buffer_bytes=1000))
        head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10000000000\r\n\r\n"
        said, _ = await push(proxy, head, b"x" * 65536, 10_000_000_000)
        assert said.startswith(b"HTTP/1.1 200") or said == b"reset"
        await until(lambda: proxy.server.connections == 0, "its connection is closed")


async def test_headers_and_urls_without_measure() -> None:
    async with front() as proxy:
        one = await proxy.replicas.start("one")
        await proxy.serve(one)
        for status, data in (
            (414, b"GET /" + b"a" * (1 << 20) + b" HTTP/1.1\r\nhost: x\r\n\r\n"),
            (431, b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"a" * (1 << 20) + b"\r\n\r\n"),
            (431, b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a" * (1 << 20) + b": x\r\n\r\n"),
            (431, b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a:\r\n" * 10_000 + b"\r\n"),
            (431, b"GET / HTTP/1.1\r\nhost: x\r\n" + (b"a: " + b"b" * 500 + b"\r\n") * 200 + b"\r\n"),
        ):
            assert (await proxy.raw(data)).startswith(b"HTTP/1.1 %d" % status), (status, data[:60])
        assert one.handler.started == []


async def test_a_client_that_reads_nothing_is_cut_and_the_others_go_on() -> None:
    async with front(write_timeout_s=0.5) as proxy:
        one = await proxy.replicas.start("one")
        made = 0

        async def pour(request: ServerRequest) -> None:
            nonlocal made
            request.on_cancel = lambda _reason: cancelled.set()
            request.head(200, ())
            while not cancelled.is_set():
                request.data(b"x" * 65536)
                made += 65536
                writable = asyncio.ensure_future(request.writable())
                gone = asyncio.ensure_future(cancelled.wait())
                await asyncio.wait({writable, gone}, return_when=asyncio.FIRST_COMPLETED)
                writable.cancel()
                gone.cancel()
            request.finished()

        cancelled = asyncio.Event()
        pouring: list[asyncio.Task[None]] = []
        one.handler.act = lambda request: pouring.append(asyncio.ensure_future(pour(request)))
        await proxy.serve(one)
        deaf = socket.socket()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        await asyncio.to_thread(deaf.connect, ("127.0.0.1", proxy.port))
        deaf.sendall(GOOD)
        await until(lambda: bool(pouring), "it pours")
        one.handler.act = None
        async with a_good_client(proxy):
            await until(cancelled.is_set, "the application is told that the client is gone")
        await asyncio.gather(*pouring)
        assert made < 16 << 20, "it was held back long before"
        await until(lambda: proxy.server.connections == 0, "cut")
        deaf.close()


async def test_an_answer_that_is_never_fetched_does_not_keep_its_connection() -> None:
    """It was written, and the connection closed, in our eyes: the kernel still waits for the client."""
    async with front(write_timeout_s=0.5) as proxy:
        one = await proxy.replicas.start("one")

        def large(request: ServerRequest) -> None:
            request.head(200, (), body=b"x" * (8 << 20), end=True)
            request.finished()

        one.handler.act = large
        await proxy.serve(one)
        deaf = socket.socket()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await asyncio.to_thread(deaf.connect, ("127.0.0.1", proxy.port))
        deaf.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        await until(lambda: len(one.handler.started) == 1, "it runs")
        await until(lambda: proxy.server.connections == 0, "cut")
        deaf.close()
