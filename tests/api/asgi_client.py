"""Asks an ASGI application in this process, so that tests of it need no server."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx


class Client:
    def __init__(self, app: Any) -> None:
        self._transport = httpx.ASGITransport(app=app)

    def get(self, path: str) -> tuple[int, Any]:
        return asyncio.run(self._ask("GET", path, None))

    def post(self, path: str, body: Any) -> tuple[int, Any]:
        return asyncio.run(self._ask("POST", path, body))

    async def _ask(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        async with httpx.AsyncClient(transport=self._transport, base_url="http://app") as client:
            answer = await client.request(method, path, json=body)
        try:
            return answer.status_code, answer.json()
        except json.JSONDecodeError:
            return answer.status_code, answer.text


def websocket_echo(app: Any, path: str, text: str) -> str:
    """Send one text; what came back after the socket was accepted."""
    incoming = [{"type": "websocket.connect"}, {"type": "websocket.receive", "text": text}]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return incoming.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": path, "root_path": "", "headers": [], "query_string": b"", "subprotocols": []}
    asyncio.run(app(scope, receive, send))
    assert sent[0]["type"] == "websocket.accept"
    return str(sent[1]["text"])
