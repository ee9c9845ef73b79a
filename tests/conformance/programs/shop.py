"""FastAPI in full: lifespan, middleware, CORS, dependencies, models, bodies up and tables down, background work, errors
of another deployment that become answers.
"""

# mypy: disable-error-code="misc"
from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from typing import Annotated, Any

import httpx
from fastapi import APIRouter, BackgroundTasks, Cookie, Depends, FastAPI, Header, HTTPException, Path, Query, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from fastapi.security import HTTPBearer
from pydantic import BaseModel, Field, field_validator

import serve_rt as serve
from serve_rt.api import session
from serve_rt.handle import DeploymentHandle


class OutOfStock(Exception):
    """Takes other arguments than it hands on, as exceptions of applications do."""

    def __init__(self, name: str, left: int) -> None:
        super().__init__(f"only {left} of {name}")
        self.name, self.left = name, left


class Item(BaseModel):
    name: str = Field(min_length=2)
    price: Decimal
    tags: set[str] = set()

    @field_validator("price")
    @classmethod
    def positive(cls, price: Decimal) -> Decimal:
        if price <= 0:
            raise ValueError("not positive")
        return price


@contextlib.asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, float]]:
    yield {"started": time.monotonic()}


app = FastAPI(title="Shop", lifespan=lifespan)
app.add_middleware(CORSMiddleware, allow_origins=["https://shop.example"], allow_methods=["*"])
app.add_middleware(GZipMiddleware, minimum_size=500)
router = APIRouter(prefix="/v1")


@app.middleware("http")
async def who(request: Request, call_next: Any) -> Any:
    request.state.who = request.headers.get("x-who", "nobody")
    response = await call_next(request)
    response.headers["x-served-for"] = request.state.who
    return response


@app.exception_handler(OutOfStock)
async def out_of_stock(_request: Request, error: OutOfStock) -> JSONResponse:
    return JSONResponse({"out of": error.name, "left": error.left}, 409)


def user(token: Annotated[Any, Depends(HTTPBearer(auto_error=False))]) -> str:
    if token is None or token.credentials != "secret":
        raise HTTPException(401, "who are you")
    return "ada"


@router.get("/plain", response_class=PlainTextResponse)
def plain() -> str:
    return "plain"


app.include_router(router)


@serve.deployment
class Stock:
    def __init__(self) -> None:
        self.left = {"apple": 3}

    def take(self, name: str, count: int) -> int:
        if self.left.get(name, 0) < count:
            raise OutOfStock(name, self.left.get(name, 0))
        self.left[name] -= count
        return self.left[name]

    async def upper(self, item: Item) -> Item:
        return item.model_copy(update={"name": item.name.upper()})


@serve.deployment
@serve.ingress(app)
class Shop:
    def __init__(self, stock: DeploymentHandle[Any], currency: str = "EUR") -> None:
        self.stock, self.currency = stock, currency
        self.noted: list[str] = []

    @app.get("/")
    async def root(self, request: Request) -> dict[str, Any]:
        up = time.monotonic() - request.state.started < 100
        return {"who": request.state.who, "up": up, "item": str(request.url_for("item", number=3).path)}

    @app.post("/items", status_code=201, response_model=Item, response_model_exclude={"tags"})
    async def create(self, item: Item, tasks: BackgroundTasks) -> Any:
        tasks.add_task(self.note, item.name)
        return await self.stock.upper.remote(item)

    def note(self, name: str) -> None:
        self.noted.append(name)

    @app.get("/noted")
    def get_noted(self) -> list[str]:
        return self.noted

    @app.get("/items/{number}", name="item")
    async def item(
        self,
        number: Annotated[int, Path(ge=1)],
        q: Annotated[list[str] | None, Query()] = None,
        x_flag: Annotated[str | None, Header()] = None,
        sid: Annotated[str | None, Cookie()] = None,
    ) -> list[Any]:
        return [number, q, x_flag, sid]

    @app.post("/take/{name}")
    async def take(self, name: str, count: int = 1) -> dict[str, Any]:
        return {"left": await self.stock.take.remote(name, count=count), "currency": self.currency}

    @app.get("/me")
    def me(self, name: Annotated[str, Depends(user)]) -> str:
        return name

    @app.put("/length")
    async def length(self, request: Request) -> int:
        return sum([len(chunk) async for chunk in request.stream()])

    @app.get("/table")
    def table(self) -> StreamingResponse:
        def rows() -> Iterator[str]:
            yield from (f"{number},{number * number}\n" for number in range(1000))

        return StreamingResponse(rows(), media_type="text/csv")


async def main() -> None:
    base = f"http://{session.current().identity.http_address}/shop"
    async with httpx.AsyncClient(base_url=base, timeout=20) as ask:
        answer = await ask.get("/", headers={"x-who": "bob"})
        print(answer.json(), answer.headers["x-served-for"])
        for body in ({"name": "pear", "price": "1.50", "tags": ["x"]}, {"name": "p", "price": -1}):
            answer = await ask.post("/items", json=body)
            said = answer.json()
            print(answer.status_code, said if answer.is_success else [wrong["loc"] for wrong in said["detail"]])
        while (await ask.get("/noted")).json() != ["pear"]:  # noqa: ASYNC110 - it is another process's word
            await asyncio.sleep(0.05)
        answer = await ask.get("/items/3?q=a&q=b", headers={"x-flag": "f", "cookie": "sid=1"})
        print(answer.json(), (await ask.get("/items/0")).status_code)
        print([(a.status_code, a.json()) for a in [await ask.post("/take/apple?count=2") for _ in range(2)]])
        print([(await ask.get("/me", headers=h)).status_code for h in ({}, {"authorization": "Bearer secret"})])
        print((await ask.put("/length", content=bytes(300_000))).json(), (await ask.get("/v1/plain")).text)
        answer = await ask.get("/table")
        print(len(answer.text.splitlines()), answer.headers["content-encoding"])
        asked = {"origin": "https://shop.example", "access-control-request-method": "POST"}
        print((await ask.options("/items", headers=asked)).headers["access-control-allow-origin"])
        print(sorted((await ask.get("/openapi.json")).json()["paths"])[:3], (await ask.get("/docs")).status_code)


if __name__ == "__main__":
    serve.start(http_options={"port": 0})
    serve.run(Shop.bind(Stock.bind(), currency="USD"), name="shop", route_prefix="/shop")
    asyncio.run(main())
