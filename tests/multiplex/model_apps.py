"""Multiplexed deployments; they travel in the code snapshot, by name."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from starlette.requests import Request

import serve_rt as serve


class _Hub:
    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.gate = asyncio.Event()

    @serve.multiplexed(max_num_models_per_replica=2)
    async def model(self, model_id: str) -> str:
        self.loaded.append(model_id)
        await asyncio.sleep(0.05)
        if model_id == "broken":
            raise ValueError("broken weights")
        return f"model {model_id}"

    @serve.multiplexed(max_num_models_per_replica=1)
    async def tokenizer(self, model_id: str) -> str:
        return f"tokenizer {model_id}"

    async def __call__(self, request: Request) -> dict[str, Any]:
        return await self.who()

    async def who(self) -> dict[str, Any]:
        model_id = serve.get_multiplexed_model_id()
        model = await self.model(model_id)
        return {"model": model, "tokenizer": await self.tokenizer(model_id), "pid": os.getpid()}

    async def hold(self) -> str:
        model = await self.model(serve.get_multiplexed_model_id())
        await self.gate.wait()
        return str(model)

    def let_go(self) -> None:
        self.gate.set()

    def loads(self) -> tuple[int, list[str]]:
        return os.getpid(), self.loaded


Hub = serve.deployment(_Hub)
