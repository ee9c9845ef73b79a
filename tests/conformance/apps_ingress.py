"""Ingresses of every kind, as strangers write them; they travel in the code snapshot, by name."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, Header, HTTPException, Request, Response, WebSocket
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from pydantic import BaseModel, Field
from starlette.applications import Starlette
from starlette.routing import Route

import serve_rt as serve
from serve_rt.exceptions import BackPressureError, DeploymentUnavailableError
from tests.conformance.asking import LIGHT


class Item(BaseModel):
    name: str
    price: float = Field(gt=0)


class Missing(Exception): ...


class Notes:
    path = ""


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.opened = "opened"
    yield
    if Notes.path:
        Path(Notes.path).write_text("shut down")


async def need_token(x_token: Annotated[str | None, Header()] = None) -> None:
    if x_token == "wrong":
        raise HTTPException(401, "wrong token")


def page(limit: int = 10) -> dict[str, int]:
    return {"limit": limit}


app = FastAPI(title="Shop", lifespan=lifespan, dependencies=[Depends(need_token)])
small = FastAPI()
app.mount("/small", small)


@small.get("/hi")
def small_hi() -> str:
    return "hi from below"


@app.middleware("http")
async def stamp(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    answer = await call_next(request)
    answer.headers["x-stamp"] = "stamped"
    return answer


@app.exception_handler(Missing)
async def missing(_request: Request, error: Missing) -> JSONResponse:
    return JSONResponse({"missing": str(error)}, 410)


@app.get("/plain")
async def plain() -> str:
    return "no self"


class Base:
    @app.get("/inherited")
    def inherited(self) -> str:
        return type(self).__name__


@serve.deployment(ray_actor_options=LIGHT)
@serve.ingress(app)
class Shop(Base):
    def __init__(self, notes: str = "") -> None:
        self.items: dict[str, Item] = {}
        self.told: list[str] = []
        Notes.path = notes

    @app.post("/items", status_code=201, response_model=Item)
    async def add(self, item: Item) -> dict[str, Any]:
        self.items[item.name] = item
        return {**item.model_dump(), "secret": "not in the model"}

    @app.get("/items/{name}")
    def item(self, name: str, paging: Annotated[dict[str, int], Depends(page)]) -> dict[str, Any]:
        if name not in self.items:
            raise Missing(name)
        return {"item": self.items[name], "limit": paging["limit"]}

    @app.get("/stream")
    def stream(self) -> StreamingResponse:
        return StreamingResponse((f"{number}\n" for number in range(3)), media_type="text/plain")

    @app.post("/tell/{word}")
    async def tell(self, word: str, tasks: BackgroundTasks) -> str:
        tasks.add_task(self.told.append, word)
        return "later"

    @app.get("/told")
    async def told_words(self) -> list[str]:
        return self.told

    @app.get("/refused")
    async def refused(self, kind: str) -> None:
        if kind == "full":
            raise BackPressureError(3, 3, 429, 7)
        raise DeploymentUnavailableError("Deployment(name='x', app='y')")

    @app.get("/state")
    async def state(self, request: Request) -> dict[str, Any]:
        return {"opened": request.app.state.opened, "root": request.scope["root_path"]}

    @app.websocket("/ws/{room}")
    async def chat(self, socket: WebSocket, room: str) -> None:
        await socket.accept(subprotocol="chat")
        async for text in socket.iter_text():
            if text == "bye":
                await socket.close(4001, "enough")
                return
            await socket.send_json({"room": room, "text": text, "items": len(self.items)})

    def count(self) -> int:
        return len(self.items)


router = APIRouter(prefix="/v1")


@serve.deployment(ray_actor_options=LIGHT)
@serve.ingress(router)
class Routed:
    @router.get("/who")
    def who(self) -> str:
        return type(self).__name__


async def raw(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI application by hand."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 203, "headers": [(b"x-raw", b"yes")]})
    await send({"type": "http.response.body", "body": scope["path"].encode(), "more_body": True})
    await send({"type": "http.response.body", "body": b"!"})


@serve.deployment(ray_actor_options=LIGHT)
@serve.ingress(raw)
class Raw: ...


async def _hello(_request: Request) -> PlainTextResponse:
    return PlainTextResponse("starlette")


def make_app() -> Starlette:
    """Holds what cannot be pickled; called in the replica."""
    made = Starlette(routes=[Route("/hello", _hello)])
    made.state.file = open("/dev/null")  # noqa: SIM115  # that is the case
    return made


@serve.deployment(ray_actor_options=LIGHT)
@serve.ingress(make_app)
class Built: ...


alone = FastAPI(docs_url="/papers")


@alone.get("/only")
def only() -> dict[str, str]:
    return {"who": serve.get_replica_context().deployment}


Alone = serve.deployment(ray_actor_options=LIGHT, name="Alone")(serve.ingress(alone)())


@alone.get("/late")
def late() -> str:
    return "added after the decoration"


@serve.deployment(ray_actor_options=LIGHT)
@serve.ingress()
class BuildsItself:
    def __init__(self, greeting: str) -> None:
        self.greeting = greeting

    def __serve_build_asgi_app__(self) -> FastAPI:
        made = FastAPI()

        @made.get("/greeting")
        def greeting() -> str:
            return self.greeting

        return made


@asynccontextmanager
async def broken_lifespan(_app: FastAPI) -> AsyncIterator[None]:
    raise OSError("no database")
    yield


@serve.deployment(ray_actor_options=LIGHT, max_constructor_retry_count=1)
@serve.ingress(FastAPI(lifespan=broken_lifespan))
class NoDatabase: ...


parent_app = FastAPI()


@serve.ingress(parent_app)
class Parent:
    @parent_app.get("/name")
    def name(self) -> str:
        return str(getattr(self, "label", "parent"))


@serve.deployment(ray_actor_options=LIGHT)
class Child(Parent):
    def __init__(self, label: str) -> None:
        self.label = label
