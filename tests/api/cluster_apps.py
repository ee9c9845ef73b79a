"""Applications that the cluster tests deploy; they travel in the code snapshot, by name."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request

import serve_rt as serve


class _Worker:
    def __init__(self, bias: int = 0) -> None:
        self.bias = bias
        self.cancelled = 0

    def add(self, left: int, right: int = 0) -> int:
        return left + right + self.bias

    def pid(self) -> int:
        return os.getpid()

    async def fail(self, text: str) -> None:
        raise LookupError(text)

    async def count(self, limit: int) -> AsyncIterator[int]:
        for number in range(limit):
            yield number

    async def hang(self) -> None:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def cancellations(self) -> int:
        return self.cancelled

    def big(self, size: int) -> bytes:
        return b"x" * size

    def length(self, data: bytes) -> int:
        return len(data)

    @serve.batch(max_batch_size=8, batch_wait_timeout_s=0.05)
    async def squares(self, numbers: list[int]) -> list[tuple[int, int]]:
        return [(number * number, len(numbers)) for number in numbers]


class _Front:
    def __init__(self, worker: Any) -> None:
        self.worker = worker

    async def __call__(self, request: Request) -> dict[str, Any]:
        number = int(request.query_params.get("n", "1"))
        total = await self.worker.add.remote(self.worker.add.remote(number), right=10)
        return {"total": total, "who": serve.get_replica_context().deployment}

    async def chain(self, limit: int) -> AsyncIterator[int]:
        async for number in self.worker.count.options(stream=True).remote(limit):
            yield 2 * number

    async def hang(self) -> None:
        await self.worker.hang.remote()

    async def forget(self) -> None:
        """Its call is awaited by nobody."""
        self.forgotten = self.worker.hang.remote()
        await asyncio.sleep(1000)

    async def neighbour(self, app: str) -> Any:
        handle = await asyncio.to_thread(serve.get_app_handle, app)
        return await handle.add.remote(1, 1)


class _Broken:
    def __init__(self) -> None:
        raise OSError("the weights are missing")


Worker = serve.deployment(_Worker)
Front = serve.deployment(_Front)
Broken = serve.deployment(max_constructor_retry_count=1)(_Broken)
