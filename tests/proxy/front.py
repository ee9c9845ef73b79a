"""A real proxy in this process: HttpServer and ProxyApp on a socket, replicas of tests.routing behind it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

from serve_rt.model.routes import AppRoute
from serve_rt.proxy.app import ProxyApp
from serve_rt.proxy.http_server import HttpServer
from serve_rt.proxy.limits import Limits
from serve_rt.routing import Routers
from tests.routing.replicas import CLUSTER, KEY, TOKEN, Replica, Replicas, table, until

LIMITS = Limits(
    head_timeout_s=0.5, body_grace_s=0.5, drain_s=0.5, drain_busy_s=2.0, connections=50, keep_alive_timeout_s=5.0
)
APP = AppRoute(KEY.app, "/", KEY.deployment, queue_timeout_s=2.0)


class NoAge:
    age_s: float | None = 0.0


@dataclass
class Front:
    replicas: Replicas
    routers: Routers
    app: ProxyApp
    server: HttpServer
    port: int
    age: NoAge
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def serve(self, *behind: Replica, app: AppRoute = APP, **route: Any) -> None:
        self.app.update(table(*behind, app=app, **route))
        if behind:
            await until(lambda: f"{len(behind)} idle" in repr(self.routers.router(KEY)), "links up")

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writers.append(writer)
        return reader, writer

    async def raw(self, data: bytes, *, wait_s: float = 5.0) -> bytes:
        """Everything the server says to `data` until it closes, or one whole answer."""
        reader, writer = await self.connect()
        writer.write(data)
        try:
            async with asyncio.timeout(wait_s):
                return await read_answer(reader)
        except (ConnectionResetError, BrokenPipeError):
            return b""
        finally:
            writer.close()

    async def get(self, path: str = "/", headers: str = "", method: str = "GET", body: bytes = b"") -> Answered:
        length = f"content-length: {len(body)}\r\n" if body or method == "POST" else ""
        head = f"{method} {path} HTTP/1.1\r\nhost: test\r\n{length}{headers}\r\n"
        return Answered.parse(await self.raw(head.encode() + body))


@dataclass(frozen=True)
class Answered:
    status: int
    headers: dict[str, str]
    body: bytes

    @staticmethod
    def parse(data: bytes) -> Answered:
        head, _, body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        return Answered(int(first.split()[1]), headers, body)


async def read_answer(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length")), None
    )
    if length is not None:
        return head + await reader.readexactly(length)
    if b"transfer-encoding: chunked" not in head:
        return head
    body = b""
    while True:
        size = int((await reader.readline()).strip() or b"0", 16)
        body += await reader.readexactly(size)
        await reader.readline()
        if not size:
            return head + body


@contextlib.asynccontextmanager
async def front(*, tls: ssl.SSLContext | None = None, root_path: str = "", **changed: object) -> AsyncIterator[Front]:
    limits = replace(LIMITS, **changed)  # type: ignore[arg-type]  # fields of Limits
    behind = Replicas()
    routers = Routers(CLUSTER, TOKEN, "proxy")
    age = NoAge()
    app = ProxyApp(routers, age, limits, root_path=root_path)
    server = HttpServer(app, limits)
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    await server.start(sock, tls)
    made = Front(behind, routers, app, server, sock.getsockname()[1], age)
    try:
        yield made
    finally:
        for writer in made.writers:
            writer.close()
        server.hurry()
        await server.drain()
        await routers.close()
        await behind.close()
