"""Applications under test. `deploy.py` binds them in the clusters; `tests/load/checks.py` knows their answers.

Loaded as the top-level module `apps` from a copy in the cluster's folder, as a user's own module would be.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import sys
import time
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

import serve_rt as serve

FIRST_RANDOM = random.random()


@serve.deployment
class Echo:
    """GET or POST with a nonce: it comes back, with the pid and the version that answered.

    Further paths do what a test needs: /stream, /sleep, /block, /gil, /append, /exit, /random.
    """

    def __init__(self, version: str = "v1", start_s: float = 0.0, sleep_ms: float = 0.0, fails: str = "") -> None:
        time.sleep(start_s)
        self.version = version
        self.sleep_s = sleep_ms / 1e3
        self.fails = fails
        self.first_random = first_random()

    async def __call__(self, request: Request) -> Response:
        query = request.query_params
        doing = request.url.path.rstrip("/").rpartition("/")[2]
        answer = getattr(self, f"do_{doing}", None)
        if answer is not None:
            result: Response = await answer(request)
            return result
        if self.fails == "exits":
            os._exit(5)
        if self.fails == "raises":
            raise RuntimeError("this version is bad")
        nonce = query.get("nonce", "")
        if request.method == "POST":
            nonce = (await request.json())["nonce"]
        if self.sleep_s:
            await asyncio.sleep(self.sleep_s)
        return JSONResponse(self.said(nonce))

    def said(self, nonce: str) -> dict[str, Any]:
        return {"nonce": nonce, "pid": os.getpid(), "version": self.version}

    async def do_stream(self, request: Request) -> Response:
        nonce, count = request.query_params["nonce"], int(request.query_params.get("count", "20"))
        pause_s = float(request.query_params.get("pause_ms", "1")) / 1e3

        async def lines() -> AsyncIterator[str]:
            for index in range(count):
                yield f"{nonce} {index}\n"
                await asyncio.sleep(pause_s)
            yield f"{nonce} end {os.getpid()}\n"

        return StreamingResponse(lines(), media_type="text/plain")

    async def do_sleep(self, request: Request) -> Response:
        await asyncio.sleep(float(request.query_params["s"]))
        return JSONResponse(self.said(request.query_params.get("nonce", "")))

    async def do_block(self, request: Request) -> Response:
        """Synchronous inside async: the user's loop stands still."""
        time.sleep(float(request.query_params["s"]))
        return JSONResponse(self.said(request.query_params.get("nonce", "")))

    async def do_gil(self, request: Request) -> Response:
        """C code that never lets go of the interpreter: no thread of this process runs meanwhile."""
        hold_gil(float(request.query_params["s"]))
        return JSONResponse(self.said(request.query_params.get("nonce", "")))

    async def do_append(self, request: Request) -> Response:
        """POST, not retry-safe: one line per execution, so that a second one is seen."""
        body = await request.json()
        note(body["file"], f"{body['nonce']} {os.getpid()}")
        await asyncio.sleep(float(body.get("sleep_s", 0.0)))
        return JSONResponse(self.said(body["nonce"]))

    async def do_json(self, request: Request) -> Response:
        """What the body says, whatever it is; how user code usually treats a body that it does not know."""
        try:
            value = await request.json()
        except ValueError as error:
            return PlainTextResponse(str(error)[:100], 400)
        return JSONResponse({"type": type(value).__name__, **self.said("")})

    async def do_size(self, request: Request) -> Response:
        return JSONResponse({"size": len(await request.body()), **self.said("")})

    async def do_parts(self, request: Request) -> Response:
        """How many parts a multipart body has, read as it comes; kept is only what may begin a delimiter."""
        delimiter, count, rest = b"--part\r\n", 0, b""
        async for piece in request.stream():
            text = rest + piece
            count += text.count(delimiter)
            rest = text[max(text.rfind(delimiter) + len(delimiter), len(text) - len(delimiter) + 1) :]
        return JSONResponse({"parts": count, **self.said("")})

    async def do_exit(self, request: Request) -> Response:
        os._exit(3)

    async def do_random(self, request: Request) -> Response:
        return JSONResponse({"first": self.first_random, "pid": os.getpid()})


def first_random() -> float:
    """numpy's where it came with the fork: Python reseeds its own generator in a forked child, numpy does not."""
    numpy_random = sys.modules.get("numpy.random")
    return float(numpy_random.random() if numpy_random is not None else random.random())


def note(path: str, line: str) -> None:
    with Path(path).open("a") as file:
        file.write(line + "\n")


def hold_gil(seconds: float) -> None:
    """One call into C, as long as asked for: its speed is measured first."""
    probe = 2_000_000
    started = time.perf_counter()
    deque(itertools.repeat(None, probe), maxlen=0)
    per_item_s = (time.perf_counter() - started) / probe
    deque(itertools.repeat(None, int(seconds / per_item_s)), maxlen=0)


@serve.deployment
class Raises:
    def __init__(self) -> None:
        raise RuntimeError("the model file of this test is missing")

    def __call__(self, request: Request) -> str:
        return "never"


@serve.deployment
class ExitsAtOnce:
    def __init__(self) -> None:
        os._exit(7)

    def __call__(self, request: Request) -> str:
        return "never"


@serve.deployment
class LazyImporter:
    """Its constructor imports a module that takes seconds, as transformers' do; the module is made by the test."""

    def __init__(self, module: str) -> None:
        started = time.perf_counter()
        __import__(module)
        self.import_s = time.perf_counter() - started

    def __call__(self, request: Request) -> str:
        return json.dumps({"import_s": self.import_s, "pid": os.getpid()})


@serve.deployment
def small(request: Request) -> Response:
    return PlainTextResponse("small")


BAD_ECHO = Raises.options(name="Echo")
"""A new version of the same deployment, not another deployment in its place."""

ONE = Echo.bind()
"""For configuration files: an application by import path."""

KINDS = {
    "echo": Echo,
    "front": Echo.options(name="Front"),
    "bad_front": Raises.options(name="Front"),
    "bad_echo": BAD_ECHO,
    "raises": Raises,
    "exits": ExitsAtOnce,
    "lazy": LazyImporter,
    "small": small,
}
