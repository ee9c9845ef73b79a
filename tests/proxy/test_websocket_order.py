"""Messages that go past the tasks and messages that had to wait are one row, both ways, and what waits is bounded."""

from __future__ import annotations

import asyncio
import random

import pytest

from serve_rt.pb import stream_pb2 as pb
from serve_rt.transport.limits import WINDOW_BYTES
from serve_rt.transport.server import ServerRequest
from tests.proxy.front import front
from tests.proxy.test_websocket_abuse import BINARY, CLOSE, TEXT, frame, served, upgraded
from tests.routing.replicas import KEY, until

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize("seed", range(2))
async def test_messages_keep_their_order_whoever_waits(seed: int) -> None:
    dice = random.Random(seed)
    sizes = [dice.choice((0, 1, 5, 200, 70_000, 300_000, 900_000)) for _ in range(70)]
    said = [
        (TEXT, (f"{number} " + "é" * (size // 2)).encode())
        if dice.random() < 0.5
        else (BINARY, b"%d " % number + bytes(size))
        for number, size in enumerate(sizes)
    ]

    async def echo(request: ServerRequest) -> None:
        request.head(101, ())
        while (part := await request.receive()) is not None and part.kind != pb.DATA_KIND_WS_CLOSE:
            if dice.random() < 0.05:
                await asyncio.sleep(0.01)
            request.data(part.payload, kind=part.kind)
            await request.writable()
        request.finished()

    running: set[asyncio.Task[None]] = set()
    async with front() as proxy:
        await served(proxy)
        proxy.replicas.all[0].handler.act = lambda request: running.add(asyncio.ensure_future(echo(request)))
        client = await upgraded(proxy)
        for opcode, payload in said:
            client.send(frame(opcode, payload))
        heard = []
        for _ in said:
            if dice.random() < 0.05:
                await asyncio.sleep(0.02)  # a reader that lags behind: the proxy has to wait for it
            heard.append(await client.next())
        assert heard == said
        client.send(frame(CLOSE, b"\x03\xe8"))
        assert (await client.next())[0] == CLOSE
        await asyncio.gather(*running)


async def test_what_an_application_does_not_read_stays_with_the_client() -> None:
    requests: list[ServerRequest] = []

    def accept(request: ServerRequest) -> None:
        requests.append(request)
        request.head(101, ())

    async with front() as proxy:
        await served(proxy)
        proxy.replicas.all[0].handler.act = accept
        client = await upgraded(proxy)
        for _ in range(200):
            client.send(frame(BINARY, bytes(100_000)))
        [link] = proxy.routers.router(KEY)._replicas.links()
        stream = link.stream
        assert stream is not None
        await until(lambda: stream.data_sent > 2, "some of it went on")
        await asyncio.sleep(0.2)
        sent = stream.data_sent
        assert sent * 100_000 < WINDOW_BYTES + 300_000, "more than a window and what was in the proxy's hands"
        [request] = requests
        got = 0
        while got < 200:
            part = await request.receive()
            assert part is not None and part.payload == bytes(100_000)
            got += 1
        request.finished()
