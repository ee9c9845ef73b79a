"""Clients behind a bad line: requests that come byte by byte, with pauses, are read as they were meant (T17)."""

from __future__ import annotations

import asyncio

import pytest

from serve_rt.testing.fault_link import fault_link
from tests.proxy.front import front, read_answer

pytestmark = pytest.mark.anyio

CLIENTS, ASKED_BY_EACH = 8, 4


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def request(client: int, number: int) -> tuple[bytes, bytes]:
    """A request, and the body that its answer must bring back."""
    body = f"{client}/{number} ".encode() * (50 * number + 1)
    head = b"POST / HTTP/1.1\r\nhost: x\r\n"
    if number % 2:
        return head + b"content-length: %d\r\n\r\n" % len(body) + body, body
    middle = len(body) // 2
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (body[:middle], body[middle:]) if piece)
    return head + b"transfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n", body


async def test_requests_in_single_bytes_are_answered_each_with_its_own() -> None:
    async with front(head_timeout_s=5.0, body_grace_s=5.0) as proxy:
        await proxy.serve(await proxy.replicas.start("one", capacity=100))
        async with fault_link("127.0.0.1", proxy.port) as link:
            link.rough(piece_bytes=1, stall_share=0.05, stall_s=0.2)

            async def ask(client: int) -> None:
                reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
                for number in range(ASKED_BY_EACH):
                    asked, body = request(client, number)
                    writer.write(asked)
                    async with asyncio.timeout(20):
                        answer = await read_answer(reader)
                    assert answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"\r\n\r\n" + body)
                writer.close()

            await asyncio.gather(*(ask(client) for client in range(CLIENTS)))
            assert link.there.bitten and link.back.bitten
