"""Clients that leave while nothing is read from them: their work ends at once all the same."""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import replace

import pytest

from serve_rt.proxy.hang_ups import HangUps
from serve_rt.proxy.http_protocol import ProxyHttpProtocol
from tests.proxy.front import APP, Front, front, read_answer
from tests.routing.replicas import until

pytestmark = pytest.mark.anyio

RESET = struct.pack("ii", 1, 0)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def leave(writer: asyncio.StreamWriter, how: str) -> None:
    if how == "reset":
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()


def connection_of(proxy: Front) -> ProxyHttpProtocol:
    [connection] = proxy.server._state.connections
    assert isinstance(connection, ProxyHttpProtocol)
    return connection


@pytest.mark.parametrize("how", ["closes", "reset"])
async def test_a_client_that_leaves_while_its_body_is_not_read(how: str) -> None:
    async with front(body_grace_s=30.0) as proxy:
        one = await proxy.replicas.start("one", capacity=1)
        one.handler.act = one.handler.hold
        await proxy.serve(one, app=replace(APP, body_buffer_bytes=1000))
        _, writer = await proxy.connect()
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100000000\r\n\r\n")
        await until(lambda: proxy.server.connections == 1, "it is here")
        connection = connection_of(proxy)

        def fill() -> bool:
            if not connection.flow.read_paused and writer.transport.get_write_buffer_size() == 0:
                writer.write(b"x" * 65536)
            return connection.flow.read_paused and writer.transport.get_write_buffer_size() == 0

        await until(fill, "its application reads nothing, and so do we")
        await until(lambda: len(one.handler.held) == 1, "it runs")
        leave(writer, how)
        await until(lambda: len(one.handler.cancelled) == 1, "its application is told")
        await until(lambda: proxy.server.connections == 0, "the connection is closed")
        assert not connection.hang_ups._paused


async def test_a_client_that_leaves_its_pipeline_behind() -> None:
    async with front() as proxy:
        one = await proxy.replicas.start("one", capacity=1)
        one.handler.act = one.handler.hold
        await proxy.serve(one)
        _, writer = await proxy.connect()
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" * 5)
        await until(lambda: len(one.handler.held) == 1, "the first one runs")
        assert connection_of(proxy).flow.read_paused
        leave(writer, "closes")
        await until(lambda: len(one.handler.cancelled) == 1, "its application is told")
        assert len(one.handler.started) == 1, "and the others never begin"


async def test_who_stays_is_read_on() -> None:
    async with front() as proxy:
        one = await proxy.replicas.start("one", capacity=1)
        await proxy.serve(one, app=replace(APP, body_buffer_bytes=1 << 22))
        reader, writer = await proxy.connect()
        for size in (1_000_000, 10, 2_000_000):
            writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % size + b"x" * size)
            assert (await read_answer(reader)).startswith(b"HTTP/1.1 200")
        assert not connection_of(proxy).hang_ups._paused


async def test_a_descriptor_that_is_another_connections_by_now() -> None:
    """The kernel forgets a closed one by itself; its connection may say so when the number is in use again."""
    hang_ups = HangUps()
    loop = asyncio.get_running_loop()
    ends = [socket.socketpair() for _ in range(2)]
    transports = [(await loop.create_connection(asyncio.Protocol, sock=mine))[0] for mine, _ in ends]
    late, here = transports
    fd = ends[1][0].fileno()
    hang_ups.watch(fd, here)
    hang_ups.forget(fd, late)
    ends[1][1].close()
    await until(here.is_closing, "it is looked after still")
    hang_ups.forget(fd, here)
    hang_ups.close()
    hang_ups.watch(fd, late)
    late.abort()
    ends[0][1].close()
