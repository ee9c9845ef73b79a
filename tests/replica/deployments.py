"""Deployments that the tests run in real replica processes. They travel by value, as from a notebook."""

from __future__ import annotations

import asyncio
import ctypes
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse

from serve_rt.handle.children import adopt
from serve_rt.multiplex.decorator import multiplexed


class Async:
    def __init__(self, marks: str = "") -> None:
        self.marks = Path(marks) if marks else None
        self.config: Any = None
        self.sick = False

    def mark(self, word: str) -> None:
        if self.marks is not None:
            with self.marks.open("a") as file:
                file.write(word + "\n")

    async def __call__(self, request: Request) -> Any:
        action = request.query_params.get("do", "echo")
        return await getattr(self, f"do_{action}")(request)

    async def do_echo(self, request: Request) -> Any:
        body = await request.body()
        return {"method": request.method, "path": request.url.path, "body": body.decode(), "x": request.headers["x"]}

    async def do_text(self, _request: Request) -> str:
        return "héllo"

    async def do_none(self, _request: Request) -> None:
        return None

    async def do_response(self, _request: Request) -> PlainTextResponse:
        return PlainTextResponse("made", status_code=201, headers={"x-made": "yes"})

    async def do_big(self, _request: Request) -> bytes:
        return b"0123456789" * 200_000

    async def do_stream(self, request: Request) -> StreamingResponse:
        async def pieces() -> AsyncIterator[str]:
            try:
                for number in range(int(request.query_params["n"])):
                    yield f"piece {number}\n"
                    await asyncio.sleep(0)
            finally:
                self.mark("stream ended")

        return StreamingResponse(pieces(), media_type="text/event-stream")

    async def do_flood(self, _request: Request) -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            for number in range(10_000):
                self.sent = number
                yield b"x" * 10_000

        return StreamingResponse(pieces())

    def sent_so_far(self) -> int:
        return self.sent

    async def do_endless(self, _request: Request) -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"tick"
                    await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                self.mark("cancelled")
                raise
            finally:
                self.mark("finally")

        return StreamingResponse(pieces())

    async def do_hang(self, _request: Request) -> None:
        self.mark("hanging")
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            self.mark("cancelled")
            raise

    async def do_fail(self, _request: Request) -> None:
        raise ValueError("broken on purpose")

    async def do_exit(self, _request: Request) -> None:
        raise SystemExit(3)

    async def do_block(self, request: Request) -> str:
        time.sleep(float(request.query_params["s"]))  # blocking the loop is the point
        return "unblocked"

    async def do_gil(self, request: Request) -> str:
        ctypes.PyDLL(None).usleep(int(float(request.query_params["s"]) * 1e6))  # PyDLL keeps the GIL
        return "released"

    async def do_json(self, _request: Request) -> Any:
        import numpy

        return {"array": numpy.arange(3), "scalar": numpy.float32(0.5), "nested": [{"n": numpy.int64(7)}]}

    async def do_generator(self, _request: Request) -> Any:
        return (f"line {number}\n" for number in range(3))

    async def add(self, a: int, b: int = 1) -> int:
        return a + b

    async def count(self, n: int) -> AsyncIterator[int]:
        try:
            for number in range(n):
                yield number
                await asyncio.sleep(0)
        finally:
            self.mark("count ended")

    async def sleep(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "slept"

    async def exit_in_a_task(self) -> None:
        async def leave() -> None:
            raise SystemExit(5)

        self.leaving = asyncio.get_running_loop().create_task(leave())

    async def raise_custom(self) -> None:
        raise CustomError("a", 2)

    async def who(self) -> Any:
        from serve_rt.context import current_request

        context = current_request.get()
        assert context is not None
        return {"request_id": context.request_id, "thread": threading.current_thread().name}

    async def reconfigure(self, config: Any) -> None:
        if config == "bad":
            raise ValueError("bad config")
        self.config = config

    async def get_config(self) -> Any:
        return self.config

    async def set_sick(self, sick: bool) -> None:
        self.sick = sick

    def check_health(self) -> None:
        if self.sick:
            raise RuntimeError("I feel sick")

    async def __del__(self) -> None:
        self.mark("deleted")


class CustomError(Exception):
    def __init__(self, a: str, b: int) -> None:
        super().__init__(f"{a}{b}")
        self.a, self.b = a, b

    def __reduce__(self) -> Any:
        return (CustomError, (self.a, self.b))


class Models:
    """Keeps models, and has a call made for a request that nobody awaits."""

    def __init__(self, marks: str) -> None:
        self.marks = Path(marks)

    def mark(self, word: str) -> None:
        with self.marks.open("a") as file:
            file.write(word + "\n")

    @multiplexed(max_num_models_per_replica=2)
    async def model(self, model_id: str) -> Model:
        return Model(self, model_id)

    async def load(self, model_id: str) -> str:
        return (await self.model(model_id)).name

    def wait_for_child(self) -> None:
        from serve_rt.context import current_request

        context = current_request.get()
        assert context is not None
        child = Child()
        adopt(context, child)
        self.mark("waiting")
        self.mark(f"child cancelled {child.cancelled.wait(20)}")

    def __del__(self) -> None:
        self.mark("deleted")


class Model:
    def __init__(self, host: Models, name: str) -> None:
        self.host, self.name = host, name

    def __del__(self) -> None:
        self.host.mark(f"unloaded {self.name}")


class Child:
    """Stands for a call of a handle, as `serve_rt.handle.children` knows them."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()

    def cancel(self) -> None:
        self.cancelled.set()


class Sync:
    def __init__(self) -> None:
        self.running = 0
        self.most = 0
        self.lock = threading.Lock()

    def __call__(self, request: Request) -> Any:
        if request.query_params.get("do") == "generator":
            return (f"{number}," for number in range(3))
        return {"thread": threading.current_thread().name}

    def sleep(self, seconds: float) -> int:
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
        time.sleep(seconds)
        with self.lock:
            self.running -= 1
        return self.most

    def wait_for_cancel(self, marks: str) -> None:
        from serve_rt.context import current_request

        context = current_request.get()
        assert context is not None
        Path(marks).write_text("started\n")
        seen = context.cancelled.wait(20)
        time.sleep(0.3)
        Path(marks).write_text(f"seen {seen}\n")

    def letters(self, marks: str) -> Iterator[str]:
        try:
            while True:
                yield "a" * 1000
        finally:
            Path(marks).write_text("closed\n")

    def big_items(self, size: int) -> Iterator[bytes]:
        yield b"a" * size
        yield b"b" * 3

    def exits(self) -> None:
        raise SystemExit(4)


class Exiting:
    def __init__(self) -> None:
        raise SystemExit("not today")


def hello() -> str:
    return "hello"


class Failing:
    def __init__(self) -> None:
        inner = {"key": 1}
        inner["missing"]


class AsyncConstructor:
    async def __init__(self) -> None:  # type: ignore[misc]  # an async constructor is what Ray Serve allows
        await asyncio.sleep(0.01)
        self.loop = asyncio.get_running_loop()

    async def same_loop(self) -> bool:
        return self.loop is asyncio.get_running_loop()


class LazyImporter:
    def __init__(self) -> None:
        import plistlib

        self.module = plistlib

    def __call__(self) -> str:
        return "ok"


class Slow:
    def __init__(self, seconds: float) -> None:
        time.sleep(seconds)

    def __call__(self) -> str:
        return "ok"


class Ingress:
    """Answers as a raw ASGI application, with a lifespan and WebSockets."""

    def __init__(self) -> None:
        self.started = False
        self.__serve_asgi_app__ = self.app

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self.live(scope, receive, send)
        elif scope["type"] == "websocket":
            await self.talk(receive, send)
        else:
            body = f"{scope['state']['word']} {scope['path']}".encode()
            await send({"type": "http.response.start", "status": 200, "headers": [(b"x-app", b"raw")]})
            await send({"type": "http.response.body", "body": body})

    async def live(self, scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "lifespan.startup"
        scope["state"]["word"] = "lived"
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def talk(self, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept", "subprotocol": "p"})
        while (message := await receive())["type"] == "websocket.receive":
            if message.get("text") is not None:
                await send({"type": "websocket.send", "text": message["text"].upper()})
            else:
                await send({"type": "websocket.send", "bytes": message["bytes"][::-1]})


class FastApiIngress:
    def __init__(self) -> None:
        from fastapi import FastAPI, HTTPException

        self.__serve_asgi_app__ = app = FastAPI()
        assert Request is not None  # named in code, so that it travels: FastAPI looks annotations up at run time

        @app.get("/items/{number}")
        async def item(number: int) -> dict[str, int]:
            return {"number": number}

        @app.get("/sync")
        def in_thread() -> dict[str, str]:
            return {"thread": threading.current_thread().name}

        @app.get("/missing")
        async def missing() -> None:
            raise HTTPException(404, "no such item")

        @app.get("/broken")
        async def broken() -> None:
            raise ValueError("broken on purpose")

        @app.post("/upload")
        async def upload(request: Request) -> int:
            size = 0
            async for piece in request.stream():
                size += len(piece)
            return size
