"""A raw keep-alive HTTP/1.1 client connection: it hides nothing, retries nothing and reports how an answer ended.

An ordinary client library retries on a stale connection and folds a cut body into an exception type of its own; the
checker must see exactly what came over the wire.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import httptools


class BrokenAnswer(Exception):
    """The connection ended, or what came is not HTTP, before the answer was complete."""


@dataclass(slots=True)
class Answer:
    status: int = 0
    fields: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    complete: bool = False
    keep_alive: bool = True
    first_byte_s: float = 0.0

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in self.fields}


class Connection(asyncio.Protocol):
    """One request at a time.

    *Resources*: the opener calls `close()`.
    """

    def __init__(self, host: str) -> None:
        self._host = host
        self._transport: asyncio.Transport | None = None
        self._answer: Answer | None = None
        self._done: Callable[[Answer | BrokenAnswer], None] | None = None
        self._parser: Any = httptools.HttpResponseParser(self)  # httptools ships no types for its parser
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
        waiter: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def settle(answer: Answer | BrokenAnswer) -> None:
            if waiter.done():
                return
            if isinstance(answer, BrokenAnswer):
                waiter.set_exception(answer)
            else:
                waiter.set_result(answer)

        lines = [f"{method} {path} HTTP/1.1", f"host: {self._host}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        if body or method in ("POST", "PUT", "PATCH"):
            lines.append(f"content-length: {len(body)}")
        self.send("\r\n".join([*lines, "", ""]).encode() + body, settle)
        try:
            return await waiter
        finally:
            self._done = None

    def send(self, request: bytes, done: Callable[[Answer | BrokenAnswer], None]) -> None:
        """The same for whoever has no task to wait in: `done` is called once, perhaps at once."""
        if self.closed or self._transport is None:
            done(BrokenAnswer("the connection was closed before the request was sent"))
            return
        self._answer = Answer()
        self._done = done
        self._transport.write(request)

    def close(self) -> None:
        self.closed = True
        if self._transport is not None:
            self._transport.abort()

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not subclasses

    def data_received(self, data: bytes) -> None:
        if self._done is None:
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
        self._tell(BrokenAnswer(reason))

    def _tell(self, answer: Answer | BrokenAnswer) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(answer)

    # --- httptools callbacks

    def on_status(self, status: bytes) -> None:
        assert self._answer is not None
        self._answer.first_byte_s = asyncio.get_running_loop().time()

    def on_header(self, name: bytes, value: bytes) -> None:
        assert self._answer is not None
        self._answer.fields.append((name, value))

    def on_headers_complete(self) -> None:
        assert self._answer is not None
        self._answer.status = self._parser.get_status_code()
        self._answer.keep_alive = self._parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        assert self._answer is not None
        self._answer.body += body

    def on_message_complete(self) -> None:
        assert self._answer is not None
        if 100 <= self._answer.status < 200:
            return
        self._answer.complete = True
        if not self._answer.keep_alive and self._transport is not None:
            self.closed = True
            self._transport.close()
        self._tell(self._answer)
