"""The applications that are measured: each echoes the nonce it was sent and the pid of its replica.

serve run bench.apps:noop
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

import serve_rt as serve
from serve_rt.examples.embed import SentenceModel


@serve.deployment(max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0.5})
class Noop:
    async def __call__(self, request: Request) -> Response:
        body = await request.json()
        return JSONResponse({"nonce": body["nonce"], "pid": os.getpid()})


@serve.deployment(max_ongoing_requests=1000, retry_safe=True, ray_actor_options={"num_cpus": 0.5})
class OneAtATime:
    """Each request runs through the model alone."""

    def __init__(self) -> None:
        self._model = SentenceModel()
        self._free = asyncio.Semaphore(1)

    async def embed(self, text: str) -> list[float]:
        async with self._free:
            vectors = await asyncio.to_thread(self._model.encode, [text])
        return vectors[0]

    async def __call__(self, request: Request) -> Response:
        body = await request.json()
        return answer(body, await self.embed(f"{body['nonce']} {body['text']}"))


@serve.deployment(max_ongoing_requests=1000, retry_safe=True, ray_actor_options={"num_cpus": 0.5})
class Batched:
    """Requests that arrive together run through the model together."""

    def __init__(self) -> None:
        self._model = SentenceModel()

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.002)
    async def embed(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._model.encode, texts)

    async def __call__(self, request: Request) -> Response:
        body = await request.json()
        return answer(body, await self.embed(f"{body['nonce']} {body['text']}"))


def answer(body: Any, vector: list[float]) -> Response:
    return JSONResponse({"nonce": body["nonce"], "pid": os.getpid(), "embedding": vector})


noop = Noop.bind()
one_at_a_time = OneAtATime.bind()
batched = Batched.bind()


@serve.deployment(ray_actor_options={"num_cpus": 0.05})
class Torch:
    """Imports torch when it is constructed, as models do."""

    def __init__(self) -> None:
        import torch

        self.layer = torch.nn.Linear(64, 64)

    async def __call__(self, request: Request) -> dict[str, int]:
        return {"pid": os.getpid(), "parameters": sum(one.numel() for one in self.layer.parameters())}
