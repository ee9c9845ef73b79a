"""A request's Open part as an ASGI scope, a `receive` and a starlette Request.

Runs where user code runs. A body that came whole with the Open part is handed over without crossing threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request

from serve_rt.pb import stream_pb2 as pb
from serve_rt.replica.call import Call
from serve_rt.transport.data import Data

_ASGI = {"version": "3.0", "spec_version": "2.4"}


def http_scope(call: Call, state: Mapping[str, Any] | None = None) -> dict[str, Any]:  # Any: ASGI says so
    http = call.open.http
    flat = iter(http.headers)
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": _ASGI,
        "http_version": http.http_version,
        "method": http.method,
        "scheme": http.scheme,
        "path": http.path,
        "raw_path": http.raw_path,
        "query_string": http.query_string,
        "root_path": http.root_path,
        "headers": list(zip(flat, flat, strict=True)),
        "client": (http.client_host, http.client_port) if http.client_host else None,
        "server": (http.server_host, http.server_port or None),
        "extensions": {},
    }
    if state is not None:
        scope["state"] = dict(state)
    return scope


def websocket_scope(call: Call, state: Mapping[str, Any] | None = None) -> dict[str, Any]:
    scope = http_scope(call, state)
    del scope["method"]
    scope["type"] = "websocket"
    scope["subprotocols"] = list(call.open.http.subprotocols)
    scope["extensions"] = {"websocket.http.response": {}}
    return scope


class Receive:
    """ASGI `receive` of one HTTP request. User loop only."""

    __slots__ = ("_call", "_ended", "_first")

    def __init__(self, call: Call) -> None:
        self._call = call
        self._first = call.body_complete
        self._ended = False

    async def __call__(self) -> dict[str, Any]:
        call = self._call
        if self._first:
            self._first = False
            self._ended = True
            return {"type": "http.request", "body": call.body, "more_body": False}
        if self._ended:
            return await self._wait_for_disconnect()
        part = await call.receive_part()
        if part is None:
            self._ended = True
            if call.cancelled:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": b"", "more_body": False}
        self._ended = part.end
        return {"type": "http.request", "body": part.payload, "more_body": not part.end}

    async def _wait_for_disconnect(self) -> dict[str, Any]:
        call = self._call
        if not call.cancelled:
            if call.disconnected is None or call.disconnected.done():
                call.disconnected = asyncio.get_running_loop().create_future()
            waiting = call.disconnected
            # Looked at again: the cancellation may have come over before there was a future to resolve.
            if not call.cancelled:
                await asyncio.shield(waiting)
        return {"type": "http.disconnect"}


def starlette_request(call: Call) -> Request:
    return Request(http_scope(call), Receive(call))


def is_websocket(call: Call) -> bool:
    return bool(call.open.http.type == "websocket")


def websocket_message(part: Data | None) -> dict[str, Any]:
    """The ASGI message for one part of a WebSocket."""
    if part is None:
        return {"type": "websocket.disconnect", "code": 1006, "reason": ""}
    if part.kind == pb.DATA_KIND_WS_TEXT:
        return {"type": "websocket.receive", "text": part.payload.decode("utf-8")}
    if part.kind == pb.DATA_KIND_WS_CLOSE:
        return {"type": "websocket.disconnect", "code": part.code or 1005, "reason": part.reason}
    return {"type": "websocket.receive", "bytes": part.payload}
