"""A closed-loop keep-alive client in a process of its own: N connections, each asks as soon as it was answered.

    python -m bench.client --port 8000 --path / --connections 32 --seconds 3

Every answer must carry the nonce of its request: a server that answers out of turn, or not at all, is no contender. It
parses only what it must, so that on two cores the servers are what is measured. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import time
from dataclasses import asdict, dataclass, field
from typing import cast

import uvloop

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_PID = re.compile(rb'"pid": ?(\d+)')


@dataclass(slots=True)
class Measured:
    requests: int = 0
    seconds: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    bad: int = 0
    first_bad: str = ""
    pids: list[int] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds if self.seconds else 0.0


class Asker(asyncio.Protocol):
    """One connection."""

    def __init__(self, tally: Tally, number: int) -> None:
        self._tally = tally
        self._prefix = f"{number}-"
        self._count = 0
        self._nonce = b""
        self._buffer = b""
        self._sent_at = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._ask()

    def _ask(self) -> None:
        assert self._transport is not None
        self._count += 1
        self._nonce = f'"{self._prefix}{self._count}"'.encode()
        body = self._tally.body_before + self._nonce + self._tally.body_after
        self._sent_at = time.perf_counter()
        self._transport.write(self._tally.head + b"%d\r\n\r\n" % len(body) + body)

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        head_end = self._buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return
        found = _LENGTH.search(self._buffer, 0, head_end + 2)
        if found is None:
            self._tally.refuse(f"no content-length: {self._buffer[:200]!r}")
            return
        end = head_end + 4 + int(found[1])
        if len(self._buffer) < end:
            return
        answer, self._buffer = self._buffer[:end], self._buffer[end:]
        good = answer.startswith(b"HTTP/1.1 200") and answer.find(self._nonce, head_end) > 0
        self._tally.answered(answer, head_end, time.perf_counter() - self._sent_at, good)
        if not self._tally.done.is_set():
            self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._tally.done.is_set():
            self._tally.refuse(f"connection lost: {exc}")

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class Tally:
    """What all connections of one run share."""

    def __init__(self, path: str, body_before: str, body_after: str) -> None:
        self.head = (
            f"POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: ".encode()
        )
        self.body_before, self.body_after = body_before.encode(), body_after.encode()
        self.done = asyncio.Event()
        self.measured = Measured()
        self._latencies: list[float] = []
        self._pids: set[int] = set()

    def answered(self, answer: bytes, head_end: int, latency_s: float, good: bool) -> None:
        if not good:
            self.refuse(f"not the answer asked for: {answer[:300]!r}")
        self._latencies.append(latency_s)
        if len(self._latencies) % 64 == 1 and (found := _PID.search(answer, head_end)):
            self._pids.add(int(found[1]))

    def refuse(self, reason: str) -> None:
        self.measured.bad += 1
        self.measured.first_bad = self.measured.first_bad or reason
        self.done.set()

    def finished(self, seconds: float) -> Measured:
        ordered = sorted(self._latencies)
        if ordered:
            self.measured.p50_ms = ordered[len(ordered) // 2] * 1e3
            self.measured.p99_ms = ordered[int(len(ordered) * 0.99)] * 1e3
        self.measured.requests, self.measured.seconds = len(ordered), seconds
        self.measured.pids = sorted(self._pids)
        return self.measured


async def measure(
    port: int, path: str, connections: int, seconds: float, body_before: str, body_after: str
) -> Measured:
    loop = asyncio.get_running_loop()
    tally = Tally(path, body_before, body_after)
    started = time.perf_counter()
    askers = [
        (await loop.create_connection(lambda n=number: Asker(tally, n), "127.0.0.1", port))[1]  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        for number in range(connections)
    ]
    try:
        async with asyncio.timeout(seconds):
            await tally.done.wait()
    except TimeoutError:
        pass
    took_s = time.perf_counter() - started
    tally.done.set()
    for asker in askers:
        asker.close()
    return tally.finished(took_s)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.client")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", default="/")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--body-before", default='{"nonce": ')
    parser.add_argument("--body-after", default="}")
    options = parser.parse_args()
    measured = uvloop.run(
        measure(
            options.port, options.path, options.connections, options.seconds, options.body_before, options.body_after
        )
    )
    print(json.dumps(asdict(measured)))


if __name__ == "__main__":
    main()
