"""A raw keep-alive HTTP/1.1 client connection: it hides nothing, retries nothing and reports how an answer ended.

An ordinary client library retries on a stale connection and folds a cut body into an exception type of its own; the
checker must see exactly what came over the wire.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import httptools


class BrokenAnswer(Exception):
    """The connection ended, or what came is not HTTP, before the answer was complete."""


@dataclass(slots=True)
class Answer:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    complete: bool = False
    keep_alive: bool = True
    first_byte_s: float = 0.0


class Connection(asyncio.Protocol):
    """One request at a time.

    *Resources*: the opener calls `close()`.
    """

    def __init__(self, host: str) -> None:
        self._host = host
        self._transport: asyncio.Transport | None = None
        self._answer: Answer | None = None
        self._waiter: asyncio.Future[Answer] | None = None
        self._parser: Any = None  # httptools ships no types for its parser
        self.closed = False

    @staticmethod
    async def open(host: str, port: int) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: Connection(f"{host}:{port}"), host, port)
        return connection

    async def request(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Answer:
        """*Errors*: BrokenAnswer."""
        if self.closed or self._transport is None:
            raise BrokenAnswer("the connection was closed before the request was sent")
        self._answer = Answer()
        self._parser = httptools.HttpResponseParser(self)
        self._waiter = asyncio.get_running_loop().create_future()
        lines = [f"{method} {path} HTTP/1.1", f"host: {self._host}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        if body or method in ("POST", "PUT", "PATCH"):
            lines.append(f"content-length: {len(body)}")
        self._transport.write("\r\n".join([*lines, "", ""]).encode() + body)
        try:
            return await self._waiter
        finally:
            self._waiter = None

    def close(self) -> None:
        self.closed = True
        if self._transport is not None:
            self._transport.abort()

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not subclasses

    def data_received(self, data: bytes) -> None:
        if self._waiter is None:
            self._fail("bytes nobody asked for")
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"not HTTP: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"reset: {type(exc).__name__}" if exc else "closed before the answer was complete")

    def _fail(self, reason: str) -> None:
        self.closed = True
        if self._transport is not None:
            self._transport.abort()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(BrokenAnswer(reason))

    # --- httptools callbacks

    def on_status(self, status: bytes) -> None:
        assert self._answer is not None
        self._answer.first_byte_s = asyncio.get_running_loop().time()

    def on_header(self, name: bytes, value: bytes) -> None:
        assert self._answer is not None
        self._answer.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        assert self._answer is not None
        self._answer.status = self._parser.get_status_code()
        self._answer.keep_alive = self._parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        assert self._answer is not None
        self._answer.body += body

    def on_message_complete(self) -> None:
        assert self._answer is not None and self._waiter is not None
        if 100 <= self._answer.status < 200:
            return
        self._answer.complete = True
        if not self._answer.keep_alive and self._transport is not None:
            self.closed = True
            self._transport.close()
        if not self._waiter.done():
            self._waiter.set_result(self._answer)
