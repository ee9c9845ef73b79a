"""A raw server that misbehaves on request, one path per way: a checker that cannot fail is worthless."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit


def _answer(status: str, body: bytes, *headers: str, length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body) if length is None else length}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def _echo(nonce: str) -> bytes:
    return json.dumps({"nonce": nonce, "pid": 7, "version": "v1"}).encode()


def _chunked(lines: list[str], *, ended: bool = True) -> bytes:
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(line) + 1, line.encode() + b"\n") for line in lines)
    return head + chunks + (b"0\r\n\r\n" if ended else b"")


async def _serve_one(path: str, nonce: str, writer: asyncio.StreamWriter) -> bool:
    """Answer one request; True when the connection may go on."""
    numbers = [f"{nonce} {index}" for index in range(5)]
    end = [f"{nonce} end 7"]
    bytes_by_path = {
        "/echo": _answer("200 OK", _echo(nonce)),
        "/close": _answer("200 OK", _echo(nonce), "connection: close"),
        "/busy": _answer("503 Service Unavailable", b"later", "retry-after: 1"),
        "/busy429": _answer("429 Too Many Requests", b"later", "retry-after: 1"),
        "/rude": _answer("503 Service Unavailable", b"go away"),
        "/error": _answer("500 Internal Server Error", b"oops"),
        "/foreign": _answer("200 OK", _echo("somebody-else")),
        "/nonsense": _answer("200 OK", b"not json"),
        "/short": _answer("200 OK", _echo(nonce), length=1000),
        "/garbage": b"SSH-2.0-OpenSSH\r\n",
        "/stream": _chunked(numbers + end),
        "/stream-gap": _chunked([*numbers[:2], *numbers[3:], *end]),
        "/stream-twice": _chunked([*numbers[:2], *numbers[1:], *end]),
        "/stream-unended": _chunked(numbers),
        "/stream-cut": _chunked(numbers, ended=False),
    }
    if path == "/hang":
        await asyncio.sleep(3600)
    if path == "/late":
        await asyncio.sleep(0.5)
    if path == "/reset":
        writer.transport.abort()
        return False
    writer.write(bytes_by_path.get(path, bytes_by_path["/echo"]))
    await writer.drain()
    return path not in ("/close", "/short", "/garbage", "/stream-cut")


async def _connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            url = urlsplit(head.split(" ")[1])
            if not await _serve_one(url.path, parse_qs(url.query).get("nonce", [""])[0], writer):
                return
    except (asyncio.IncompleteReadError, ConnectionError):
        return
    finally:
        writer.close()


@asynccontextmanager
async def misbehaving_server() -> AsyncIterator[int]:
    """Yields the port."""
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(_connection(reader, writer), name="misbehaving connection")
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
