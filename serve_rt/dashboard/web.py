"""The dashboard's pages: one HTML page with its script and style, and what they read, as JSON. It changes nothing.

| path | what |
|---|---|
| `/` | the page |
| `/page/<file>` | its script and style |
| `/api/view` | the newest answers of the cluster (`watcher.View`) |
| `/api/history?after=N` | the points newer than number N (`history.Point`) |
| `/api/logs?app=A&replica=R&lines=N` | the end of the log of one replica, or of all of an application |

Whoever reaches it sees names, messages and logs: a request must name this host (a page of somebody else's that has its
name resolve to us is refused), nothing is loaded from elsewhere, and no other page may frame it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_rt.api.client import AgentClient
from serve_rt.dashboard.watcher import Watcher
from serve_rt.errors import ServeException

PAGE = Path(__file__).with_name("page")
MOST_LOG_LINES = 5000
LOG_LINES = 300
MOST_LOG_BYTES = 4 << 20
_SAFE = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


def make_app(watcher: Watcher, client: AgentClient, hosts: list[str]) -> Starlette:
    """*Takes*: `hosts`, the names that requests may ask for; `["*"]` allows all."""
    pages = _Pages(watcher, client)
    return Starlette(
        routes=[
            Route("/", pages.index),
            Mount("/page", StaticFiles(directory=PAGE)),
            Route("/api/view", pages.view),
            Route("/api/history", pages.history),
            Route("/api/logs", pages.logs),
        ],
        middleware=[Middleware(_SafeHeaders), Middleware(TrustedHostMiddleware, allowed_hosts=hosts)],
    )


class _Pages:
    def __init__(self, watcher: Watcher, client: AgentClient) -> None:
        self._watcher, self._client = watcher, client

    async def index(self, request: Request) -> Response:
        return FileResponse(PAGE / "index.html")

    async def view(self, request: Request) -> Response:
        return _json(self._watcher.view)

    async def history(self, request: Request) -> Response:
        after = _number(request, "after", 0)
        if after is None:
            return PlainTextResponse("after must be a whole number of at least 0\n", 400)
        return _json(self._watcher.history.after(after))

    async def logs(self, request: Request) -> Response:
        lines = _number(request, "lines", LOG_LINES)
        if lines is None or not 1 <= lines <= MOST_LOG_LINES:
            return PlainTextResponse(f"lines must be from 1 to {MOST_LOG_LINES}\n", 400)
        app, replica = request.query_params.get("app", ""), request.query_params.get("replica", "")
        try:
            return PlainTextResponse(await _gathered(self._client.logs(app, replica, lines, follow=False)))
        except ServeException as error:
            return PlainTextResponse(f"{error}\n", 404)


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


def _number(request: Request, name: str, default: int) -> int | None:
    text = request.query_params.get(name, str(default))
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None


async def _gathered(pieces: AsyncIterator[tuple[str, bytes]]) -> str:
    """Each source under its name; the end of what is too long."""
    by_source: dict[str, bytearray] = {}
    async for source, data in pieces:
        kept = by_source.setdefault(source, bytearray())
        kept += data
        del kept[:-MOST_LOG_BYTES]
    several = len(by_source) > 1
    return "\n".join(
        (f"==> {source} <==\n" if several else "") + data.decode(errors="replace")
        for source, data in sorted(by_source.items())
    )


class _SafeHeaders:
    """On every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._headers = [(name.encode(), value.encode()) for name, value in _SAFE.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *self._headers]
            await send(message)

        await self._app(scope, receive, send_safely)
