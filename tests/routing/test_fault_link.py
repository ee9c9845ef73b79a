"""The link itself: each of its faults bites, and says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from serve_rt.testing.fault_link import FaultLink, Mode, fault_link

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class Caller:
    link: FaultLink
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def echoed(self, data: bytes) -> bytes:
        self.writer.write(data)
        async with asyncio.timeout(5):
            return await self.reader.readexactly(len(data))

    async def silence(self) -> bool:
        try:
            async with asyncio.timeout(0.1):
                return not await self.reader.read(1)
        except TimeoutError:
            return True


@asynccontextmanager
async def caller() -> AsyncIterator[Caller]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(4096):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server, fault_link("127.0.0.1", server.sockets[0].getsockname()[1]) as link:
        reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
        yield Caller(link, reader, writer)
        writer.close()


async def test_bytes_pass_and_so_does_the_end() -> None:
    async with caller() as it:
        assert await it.echoed(b"x" * 100_000) == b"x" * 100_000
        assert it.link.there.passed_bytes == it.link.back.passed_bytes == 100_000
        assert (it.link.there.bitten, it.link.back.bitten) == (0, 0)
        it.writer.write_eof()
        assert await it.reader.read() == b""


async def test_what_is_held_comes_after_healing() -> None:
    async with caller() as it:
        it.link.half_open()
        it.writer.write(b"late")
        assert await it.silence() and it.link.there.bitten == 4
        it.link.heal()
        assert await it.reader.readexactly(4) == b"late"


async def test_what_is_dropped_never_comes_and_the_connection_is_reset_at_the_end() -> None:
    async with caller() as it:
        it.link.swallow(it.link.back)
        it.writer.write(b"gone")
        assert await it.silence() and it.link.back.bitten == 4 and it.link.there.passed_bytes == 4
        it.link.heal()
        with pytest.raises(ConnectionResetError):
            await it.reader.read()


async def test_an_end_does_not_pass_a_silent_link() -> None:
    async with caller() as it:
        it.link.there.stop(Mode.HOLD)
        it.writer.write_eof()
        assert await it.silence() and it.link.there.bitten


async def test_small_pieces_stalls_and_delays_change_nothing_but_time() -> None:
    async with caller() as it:
        it.link.rough(piece_bytes=1, stall_share=1.0, stall_s=0.05)
        it.link.back.delay_s = 0.02
        assert await it.echoed(b"abc" * 50) == b"abc" * 50
        assert it.link.there.bitten and it.link.back.bitten


async def test_resets_reach_the_caller() -> None:
    async with caller() as it:
        await it.echoed(b"x")
        assert it.link.reset() == it.link.resets == 1
        with pytest.raises(ConnectionResetError):
            await it.reader.read()
        it.link.reset_share = 1.0
        reader, writer = await asyncio.open_connection("127.0.0.1", it.link.port)
        with pytest.raises(ConnectionError):
            while True:
                writer.write(b"x" * 4096)
                await writer.drain()
                assert await reader.read(4096)
        writer.close()
