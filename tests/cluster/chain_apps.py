"""Applications for tests of the request path: a chain of three, a counter of concurrency, work that ends its process.

Copied beside `apps.py` into the cluster's folder; `deploy.py` finds them in `BUILDERS`.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

import serve_rt as serve
from serve_rt.exceptions import RequestCancelledError
from serve_rt.handle import DeploymentHandle

PIECES = 4


class Inner:
    """The end of the chain: answers in batches."""

    def __init__(self, work_s: float) -> None:
        self.work_s = work_s

    @serve.batch(max_batch_size=8, batch_wait_timeout_s=0.004)
    async def batched(self, nonces: list[str]) -> list[str]:
        await asyncio.sleep(self.work_s)
        return nonces

    async def __call__(self, nonce: str) -> str:
        answer: str = await self.batched(nonce)
        return answer


class Middle:
    def __init__(self, inner: DeploymentHandle[Any]) -> None:
        self.inner = inner

    async def __call__(self, nonce: str, cancel_after_s: float = 0.0) -> str:
        return await asked(self.inner, nonce, cancel_after_s)

    async def pieces(self, nonce: str) -> AsyncIterator[str]:
        for index in range(PIECES):
            yield f"{await self.inner.remote(nonce)} {index}\n"


class Front:
    """`/?nonce=…`, `/stream?nonce=…`; `cut=front|middle&after_ms=…` cancels the call that Front or Middle makes."""

    def __init__(self, middle: DeploymentHandle[Any]) -> None:
        self.middle = middle

    async def __call__(self, request: Request) -> Response:
        query = request.query_params
        nonce = query["nonce"]
        if request.url.path.endswith("/stream"):
            return StreamingResponse(self.pieces(nonce), media_type="text/plain")
        after_s = float(query.get("after_ms", "0")) / 1e3
        try:
            if query.get("cut") == "middle":
                answer = await self.middle.remote(nonce, after_s)
            else:
                answer = await asked(self.middle, nonce, after_s)
        except RequestCancelledError:
            return JSONResponse({"nonce": nonce, "cancelled": True}, 409)
        return JSONResponse({"nonce": answer, "pid": os.getpid()})

    async def pieces(self, nonce: str) -> AsyncIterator[str]:
        pieces: Any = self.middle.options(method_name="pieces", stream=True).remote(nonce)
        async for piece in pieces:
            yield piece
        yield f"{nonce} end {os.getpid()}\n"


async def asked(handle: DeploymentHandle[Any], nonce: str, cancel_after_s: float) -> str:
    """The answer to one call, cancelled by `.cancel()` when it takes longer than it may (0: as long as it likes)."""
    response = handle.remote(nonce)
    if cancel_after_s:
        asyncio.get_running_loop().call_later(cancel_after_s, response.cancel)
    answer: str = await response
    return answer


def chain(options: dict[str, Any], work_s: float = 0.004) -> serve.Application:
    inner = serve.deployment(Inner).options(num_replicas=2, max_ongoing_requests=16, **options).bind(work_s)
    middle = serve.deployment(Middle).options(num_replicas=2, max_ongoing_requests=16, **options).bind(inner)
    return serve.deployment(Front).options(max_ongoing_requests=48, **options).bind(middle)


class Suicidal:
    """Notes the id of each request it begins, and now and then ends its process, before or after."""

    def __init__(self, ledger: str, share: float) -> None:
        self.ledger = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self.share = share

    async def __call__(self, request: Request) -> Response:
        nonce = (await request.json())["nonce"]
        os.write(self.ledger, f"{nonce} {os.getpid()}\n".encode())  # one write, appended: never torn
        dies = random.random() < self.share
        if dies and random.random() < 0.5:
            os._exit(9)
        await asyncio.sleep(random.random() * 0.01)
        if dies:
            os._exit(9)
        return JSONResponse({"nonce": nonce, "pid": os.getpid()})


def suicidal(options: dict[str, Any], **arguments: Any) -> serve.Application:
    return serve.deployment(Suicidal).options(**options).bind(**arguments)


class OneAtATime:
    """Says how many of its requests ran at once, counted by user code itself."""

    def __init__(self, work_s: float) -> None:
        self.work_s = work_s
        self.running = 0

    async def __call__(self, request: Request) -> Response:
        self.running += 1
        try:
            running = self.running
            await asyncio.sleep(self.work_s)
            answer = {"nonce": request.query_params.get("nonce", ""), "pid": os.getpid()}
            return Response(json.dumps({**answer, "version": f"{max(running, self.running)} at once"}))
        finally:
            self.running -= 1


def one_at_a_time(options: dict[str, Any], work_s: float = 0.02) -> serve.Application:
    return serve.deployment(OneAtATime).options(**options).bind(work_s)


class Timed:
    """Notes of each request whether it began after its time (`late`), and whether it came to its end."""

    def __init__(self, ledger: str, work_s: float, allowed_s: float) -> None:
        self.ledger = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self.work_s = work_s
        self.allowed_s = allowed_s

    async def __call__(self, request: Request) -> Response:
        query = request.query_params
        nonce, late = query["nonce"], time.monotonic() - float(query["sent"]) > self.allowed_s
        os.write(self.ledger, f"{'late' if late else 'begun'} {nonce}\n".encode())
        await asyncio.sleep(self.work_s)
        os.write(self.ledger, f"done {nonce}\n".encode())
        return JSONResponse({"nonce": nonce, "pid": os.getpid()})


def timed(options: dict[str, Any], **arguments: Any) -> serve.Application:
    return serve.deployment(Timed).options(**options).bind(**arguments)


PIECE = bytes(range(256)) * 64
"""16 KiB."""


class Producer:
    """`/fast?key=…&pieces=…` as fast as it is read, `/slow?…` a line each 10 ms; `/state` tells what was produced."""

    def __init__(self) -> None:
        self.produced: dict[str, int] = {}
        self.ended_s: dict[str, float] = {}

    async def __call__(self, request: Request) -> Response:
        doing = request.url.path.rstrip("/").rpartition("/")[2]
        if doing == "state":
            return JSONResponse({"produced": self.produced, "ended_s": self.ended_s})
        key, pieces = request.query_params["key"], int(request.query_params["pieces"])
        return StreamingResponse(self.fast(key, pieces) if doing == "fast" else self.slow(key, pieces))

    async def fast(self, key: str, pieces: int) -> AsyncIterator[bytes]:
        try:
            for number in range(pieces):
                self.produced[key] = number * len(PIECE)
                yield PIECE
        finally:
            self.ended_s[key] = time.monotonic()

    async def slow(self, key: str, pieces: int) -> AsyncIterator[bytes]:
        for number in range(pieces):
            yield f"{key} {number}\n".encode()
            await asyncio.sleep(0.01)


def producer(options: dict[str, Any]) -> serve.Application:
    return serve.deployment(Producer).options(**options).bind()


BUILDERS: dict[str, Callable[..., serve.Application]] = {
    "chain": chain,
    "suicidal": suicidal,
    "one_at_a_time": one_at_a_time,
    "timed": timed,
    "producer": producer,
}
