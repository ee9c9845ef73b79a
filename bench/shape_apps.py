"""What the other shapes are asked of: a hop, an echo, streams and a socket behind one FastAPI ingress.

bench/peers/ray_shapes.py serves the same file on Ray Serve. Annotations are values here, not strings: pickled by value,
as Ray does, a function forgets the names that only its annotations mention, and FastAPI needs them.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
from starlette.responses import JSONResponse, Response, StreamingResponse

import serve_rt as serve

CHUNKS = 200
api = FastAPI()


@serve.deployment(max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0.2})
class Inner:
    async def nonce(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"nonce": body["nonce"], "pid": os.getpid()}


async def chunks(gap_s: float) -> AsyncIterator[str]:
    for number in range(CHUNKS):
        if gap_s:
            await asyncio.sleep(gap_s)
        yield f"{number} {time.time():.6f}\n"


@serve.deployment(max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0.2})
@serve.ingress(api)
class Front:
    def __init__(self, inner: Any) -> None:
        self._inner = inner

    @api.post("/")
    @api.post("/echo")
    async def echo(self, request: Request) -> Response:
        return Response(await request.body(), media_type="application/octet-stream")

    @api.post("/hop")
    async def hop(self, request: Request) -> Response:
        return JSONResponse(await self._inner.nonce.remote(await request.json()))

    @api.get("/stream")
    async def stream(self) -> Response:
        return StreamingResponse(chunks(0.0), media_type="text/plain")

    @api.get("/slow")
    async def slow(self) -> Response:
        return StreamingResponse(chunks(0.001), media_type="text/plain")

    @api.websocket("/ws")
    async def socket(self, socket: WebSocket) -> None:
        await socket.accept()
        try:
            while True:
                await socket.send_text(await socket.receive_text())
        except WebSocketDisconnect:
            pass


app = Front.bind(Inner.bind())
