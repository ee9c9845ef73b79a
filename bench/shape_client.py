"""A closed-loop client for the other shapes of a request: large bodies, streamed answers, WebSockets.

    python -m bench.shape_client --port 8000 --path /echo --shape echo --bytes 1000000 --connections 1 --seconds 3

Everything that comes back is checked: bodies byte for byte, chunks by number, messages by nonce. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from dataclasses import asdict, dataclass, field

import uvloop
from websockets.asyncio.client import connect

CHUNKS = 200
"""Of one streamed answer: lines that hold the number of the chunk and when it was yielded."""


@dataclass(slots=True)
class Shaped:
    """`count` is answers (echo), chunks (stream) or round trips (websocket)."""

    count: int = 0
    seconds: float = 0.0
    p50_ms: float = 0.0
    late_ms: float = 0.0
    """The latest chunk behind its yield; streams only, on one machine's clock."""
    wrong: int = 0
    latencies_s: list[float] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        return self.count / self.seconds if self.seconds else 0.0


async def echo(options: argparse.Namespace, until: float, seen: Shaped) -> None:
    body = os.urandom(options.bytes)
    head = (
        f"POST {options.path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/octet-stream\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    ).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", options.port, limit=1 << 20)
    while time.perf_counter() < until:
        began = time.perf_counter()
        writer.write(head)
        writer.write(body)
        answer = await _read_whole(reader)
        seen.latencies_s.append(time.perf_counter() - began)
        seen.wrong += answer != body
        seen.count += 1
    writer.close()


async def _read_whole(reader: asyncio.StreamReader) -> bytes:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    if b"transfer-encoding: chunked" not in head:
        length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        return await reader.readexactly(length)
    pieces: list[bytes] = []
    while size := int(await reader.readline(), 16):
        pieces.append((await reader.readexactly(size + 2))[:-2])
    await reader.readline()
    return b"".join(pieces)


async def stream(options: argparse.Namespace, until: float, seen: Shaped) -> None:
    head = f"GET {options.path} HTTP/1.1\r\nhost: bench\r\n\r\n".encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", options.port)
    while time.perf_counter() < until:
        writer.write(head)
        began = time.perf_counter()
        await reader.readuntil(b"\r\n\r\n")
        text = b""
        number = 0
        while size := int(await reader.readline(), 16):
            text += (await reader.readexactly(size + 2))[:-2]
            now = time.time()
            *lines, text = text.split(b"\n")
            for line in lines:
                got, yielded = line.split()
                seen.wrong += int(got) != number
                seen.late_ms = max(seen.late_ms, (now - float(yielded)) * 1e3)
                number += 1
        await reader.readline()
        seen.wrong += number != CHUNKS
        seen.count += number
        seen.latencies_s.append(time.perf_counter() - began)
    writer.close()


async def websocket(options: argparse.Namespace, until: float, seen: Shaped) -> None:
    async with connect(f"ws://127.0.0.1:{options.port}{options.path}", compression=None) as socket:
        number = 0
        while time.perf_counter() < until:
            number += 1
            began = time.perf_counter()
            await socket.send(str(number))
            seen.wrong += await socket.recv() != str(number)
            seen.latencies_s.append(time.perf_counter() - began)
            seen.count += 1


async def measure(options: argparse.Namespace) -> Shaped:
    shape = {"echo": echo, "stream": stream, "websocket": websocket}[options.shape]
    seen = Shaped()
    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(options.connections):
            group.create_task(shape(options, began + options.seconds, seen))
    seen.seconds = time.perf_counter() - began
    ordered = sorted(seen.latencies_s)
    seen.p50_ms = ordered[len(ordered) // 2] * 1e3 if ordered else 0.0
    seen.latencies_s = []
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.shape_client")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", default="/")
    parser.add_argument("--shape", choices=("echo", "stream", "websocket"), required=True)
    parser.add_argument("--bytes", type=int, default=1_000_000)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0)
    print(json.dumps(asdict(uvloop.run(measure(parser.parse_args())))))


if __name__ == "__main__":
    main()
