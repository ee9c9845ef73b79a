"""WebSocket clients that break the rules: the close code says which, and nothing grows."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import struct
from collections.abc import Iterator

import pytest

from serve_rt.pb import stream_pb2 as pb
from serve_rt.transport.server import ServerRequest
from tests.proxy.front import Front, front
from tests.routing.replicas import until

pytestmark = pytest.mark.anyio

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def no_traceback(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING and r.exc_info and "UTF-8" not in r.message]


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, masked: bool = True, rsv: int = 0) -> bytes:
    size = len(payload)
    head = bytes(((0x80 if fin else 0) | rsv << 4 | opcode,))
    mask_bit = 0x80 if masked else 0
    if size < 126:
        head += bytes((mask_bit | size,))
    elif size < 65536:
        head += bytes((mask_bit | 126,)) + struct.pack("!H", size)
    else:
        head += bytes((mask_bit | 127,)) + struct.pack("!Q", size)
    return head + (b"\0\0\0\0" if masked else b"") + payload


class Client:
    """Raw: it can be made to do anything."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def next(self) -> tuple[int, bytes]:
        async with asyncio.timeout(5):
            first, second = await self.reader.readexactly(2)
            size = second & 127
            if size == 126:
                [size] = struct.unpack("!H", await self.reader.readexactly(2))
            elif size == 127:
                [size] = struct.unpack("!Q", await self.reader.readexactly(8))
            return first & 15, await self.reader.readexactly(size)

    async def close_code(self) -> int:
        """Of the proxy's close frame; what comes before it is read over."""
        while True:
            opcode, payload = await self.next()
            if opcode == CLOSE:
                return int.from_bytes(payload[:2], "big")

    def send(self, data: bytes) -> None:
        self.writer.write(data)


async def upgraded(proxy: Front, extra: str = "") -> Client:
    reader, writer = await proxy.connect()
    key = "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n"
    writer.write(f"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n{key}{extra}\r\n".encode())
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
    return Client(reader, writer)


@contextlib.contextmanager
def echoing(proxy: Front) -> Iterator[list[int]]:
    """The application, which echoes messages; the close codes it heard."""
    closes: list[int] = []
    running: set[asyncio.Task[None]] = set()

    async def echo(request: ServerRequest) -> None:
        request.on_cancel = lambda _reason: None
        request.head(101, ())
        while (part := await request.receive()) is not None and not request.cancelled:
            if part.kind == pb.DATA_KIND_WS_CLOSE:
                closes.append(part.code)
                break
            request.data(part.payload, kind=part.kind)
        request.finished()

    proxy.replicas.all[0].handler.act = lambda request: running.add(asyncio.ensure_future(echo(request)))
    yield closes


async def served(proxy: Front) -> None:
    await proxy.serve(await proxy.replicas.start("one"))


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(TEXT, b"hello", masked=False), 1002),
        (frame(TEXT, b"hello", rsv=4), 1002),
        (frame(TEXT, b"hello", rsv=1), 1002),
        (frame(3, b"hello"), 1002),
        (frame(11, b"hello"), 1002),
        (frame(CONT, b"out of nowhere"), 1002),
        (frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"), 1002),
        (frame(PING, b"x" * 126), 1002),
        (frame(PING, fin=False), 1002),
        (frame(CLOSE, b"x"), 1002),
        (frame(CLOSE, struct.pack("!H", 999)), 1002),
        (frame(CLOSE, struct.pack("!H", 1005)), 1002),
        (frame(CLOSE, struct.pack("!H", 1000) + b"\xff"), 1007),
        (frame(TEXT, b"\xff\xfe"), 1007),
        (frame(TEXT, b"\xc3", fin=False) + frame(CONT, b"\x28"), 1007),
        (b"\x82\xff" + struct.pack("!Q", 100 << 20) + b"\0\0\0\0", 1009),
        (b"\x82\xff" + struct.pack("!Q", 1 << 62) + b"\0\0\0\0", 1009),
        (frame(BINARY, b"x" * 900, fin=False) + frame(CONT, b"x" * 900, fin=False), 1009),
    ],
)
async def test_the_close_code_says_what_was_wrong(sent: bytes, code: int) -> None:
    async with front(websocket_message_bytes=1000) as proxy:
        await served(proxy)
        with echoing(proxy) as closes:
            client = await upgraded(proxy)
            client.send(frame(TEXT, b"good"))
            assert await client.next() == (TEXT, b"good")
            client.send(sent)
            assert await client.close_code() == code
            await until(lambda: len(closes) == 1, "the application heard of it")
            await until(lambda: proxy.server.connections == 0, "closed")


@pytest.mark.parametrize("piece", [b"", b"x"])
async def test_a_flood_of_fragments_is_1009(piece: bytes) -> None:
    async with front(websocket_fragments=100) as proxy:
        await served(proxy)
        with echoing(proxy):
            client = await upgraded(proxy)
            client.send(frame(TEXT, b"a", fin=False) + frame(CONT, b"b", fin=False) * 50 + frame(CONT, b"c"))
            assert await client.next() == (TEXT, b"a" + b"b" * 50 + b"c"), "fragments are allowed"
            client.send(frame(TEXT, fin=False) + frame(CONT, piece, fin=False) * 100_000)
            assert await client.close_code() == 1009


async def test_a_bomb_of_deflated_zeros_is_1009() -> None:
    import zlib

    async with front(websocket_message_bytes=100_000) as proxy:
        await served(proxy)
        with echoing(proxy):
            client = await upgraded(proxy, "sec-websocket-extensions: permessage-deflate\r\n")
            packer = zlib.compressobj(wbits=-12)
            bomb = packer.compress(b"\0" * (64 << 20)) + packer.flush(zlib.Z_SYNC_FLUSH)
            client.send(frame(BINARY, bomb[:-4], rsv=4))
            assert await client.close_code() == 1009


async def test_a_flood_of_pings_from_a_client_that_reads_nothing_is_cut() -> None:
    async with front(write_timeout_s=0.5) as proxy:
        await served(proxy)
        with echoing(proxy) as closes:
            client = await upgraded(proxy)
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a ReadTransport, too
            pings = frame(PING, b"p" * 100) * 1000
            before = resident_bytes()
            with contextlib.suppress(ConnectionError):
                async with asyncio.timeout(10):
                    while proxy.server.connections:
                        client.send(pings)
                        await client.writer.drain()
                        await asyncio.sleep(0)
            assert proxy.server.connections == 0
            assert resident_bytes() - before < 64 << 20
            await until(lambda: len(closes) == 1, "the application heard of it")


async def test_a_client_that_pings_and_reads_has_its_pongs() -> None:
    async with front() as proxy:
        await served(proxy)
        with echoing(proxy):
            client = await upgraded(proxy)
            for number in range(100):
                client.send(frame(PING, b"%d" % number))
                assert await client.next() == (PONG, b"%d" % number)


async def test_a_client_that_never_answers_the_close_is_closed() -> None:
    async with front() as proxy:
        await served(proxy)
        one = proxy.replicas.all[0]

        def close(request: ServerRequest) -> None:
            request.head(101, ())
            request.data(b"", end=True, kind=pb.DATA_KIND_WS_CLOSE, code=4000, reason="enough")
            request.finished()

        one.handler.act = close
        client = await upgraded(proxy)
        assert await client.close_code() == 4000
        await until(lambda: one.service.ongoing == 0, "its slot is free")
        client.send(frame(TEXT, b"x") * 10)
        await proxy.server.drain()
        await until(lambda: proxy.server.connections == 0, "closed")


async def test_a_lame_duck_keeps_its_websockets_longer_than_idle_connections() -> None:
    async with front(drain_s=0.2, drain_busy_s=2.0) as proxy:
        await served(proxy)
        with echoing(proxy) as closes:
            client = await upgraded(proxy)
            draining = asyncio.ensure_future(proxy.server.drain())
            await asyncio.sleep(0.5)
            client.send(frame(TEXT, b"still here"))
            assert await client.next() == (TEXT, b"still here")
            assert await client.close_code() == 1012
            await draining
            await until(lambda: len(closes) == 1, "the application heard of it")


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
