"""A FastAPI deployment for tests/api/test_ingress_http.py; it travels in the code snapshot, by name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Request, WebSocket
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

import serve_rt as serve

started: list[str] = []


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, str]]:
    started.append("up")
    yield {"opened": "in lifespan"}


app = FastAPI(lifespan=lifespan)


class Order(BaseModel):
    item: str
    count: int = 1


class _Stock:
    async def price(self, item: str) -> int:
        return len(item)


async def currency(euro: bool = False) -> str:
    return "EUR" if euro else "USD"


@serve.ingress(app)
class _Shop:
    def __init__(self, stock: Any) -> None:
        self.stock = stock
        self.sold = 0

    @app.get("/items/{item}")
    async def item(self, item: str, times: int = 1, unit: str = Depends(currency)) -> dict[str, Any]:
        return {"price": times * await self.stock.price.remote(item), "unit": unit}

    @app.post("/orders", status_code=201)
    def order(self, order: Order) -> Order:
        self.sold += order.count
        return Order(item=order.item, count=self.sold)

    @app.get("/gone")
    async def gone(self) -> None:
        raise HTTPException(410, "sold out")

    @app.get("/where")
    async def where(self, request: Request) -> dict[str, Any]:
        return {
            "root_path": request.scope["root_path"],
            "url": str(request.url_for("where").path),
            "opened": request.state.opened,
            "started": started,
        }

    @app.get("/pieces")
    async def pieces(self) -> StreamingResponse:
        async def each() -> AsyncIterator[str]:
            for number in range(3):
                yield f"{number},"
                await asyncio.sleep(0)

        return StreamingResponse(each(), media_type="text/plain")

    @app.websocket("/echo")
    async def echo(self, socket: WebSocket) -> None:
        await socket.accept()
        async for text in socket.iter_text():
            await socket.send_text(f"{text} {await self.stock.price.remote(text)}")

    async def sold_so_far(self) -> int:
        return self.sold


Shop = serve.deployment(_Shop)
Stock = serve.deployment(_Stock)
