"""A deployment with metrics of its own; it travels in the code snapshot, by name."""

from __future__ import annotations

from starlette.requests import Request

import serve_rt as serve
from serve_rt import metrics


class _Counting:
    def __init__(self) -> None:
        self.asked = metrics.Counter("my_requests", description="asked", tag_keys=("model", "route"))
        self.asked.set_default_tags({"model": "small"})
        self.level = metrics.Gauge("my_level")

    async def __call__(self, request: Request) -> str:
        if "fail" in request.query_params:
            raise ValueError("asked to fail")
        self.asked.inc()
        self.level.set(7)
        return "counted"

    def ping(self) -> str:
        return "pong"

    @serve.batch(max_batch_size=4, batch_wait_timeout_s=0.01)
    async def in_batches(self, numbers: list[int]) -> list[int]:
        return numbers

    async def batched(self) -> int:
        return await self.in_batches(1)

    async def through_a_handle(self) -> str:
        return str(await serve.get_app_handle("shop").ping.remote())

    @serve.multiplexed
    async def model(self, model_id: str) -> str:
        return model_id

    async def use(self) -> str:
        return await self.model(serve.get_multiplexed_model_id())


Counting = serve.deployment(_Counting)
