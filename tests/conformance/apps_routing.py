"""A deployment that is filled, left and killed."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from starlette.requests import Request

import serve_rt as serve
from serve_rt.context import current_request
from serve_rt.metrics import Counter, Gauge, Histogram
from tests.conformance.asking import LIGHT


@serve.deployment(ray_actor_options=LIGHT, max_ongoing_requests=2, max_queued_requests=1)
class Filled:
    def __init__(self, below: Any = None) -> None:
        self.below = below
        self.notes: list[str] = []
        self.running = self.most = 0

    async def __call__(self, request: Request) -> Any:
        match request.query_params.get("do"):
            case "wait":
                return await self.wait("http")
            case "below":
                return await self.below.wait.remote("below")
            case "die":
                os._exit(1)
            case _:
                context = current_request.get()
                assert context is not None
                return {"session": context.session_id, "deadline": context.deadline is not None}

    async def session(self) -> str:
        context = current_request.get()
        return context.session_id if context is not None else ""

    async def wait(self, name: str) -> str:
        self.notes.append(f"began {name}")
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(60)
            return name
        except asyncio.CancelledError:
            self.notes.append(f"cancelled {name}")
            raise
        finally:
            self.running -= 1

    async def die(self) -> None:
        os._exit(1)


@serve.deployment(ray_actor_options=LIGHT)
class Notebook:
    """What `Filled` calls; its notes can be read while that one is full."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.asked = Counter("conformance_asked", description="asked", tag_keys=("kind", "route"))
        self.asked.set_default_tags({"kind": "usual"})
        self.level = Gauge("conformance_level", tag_keys=("kind",))
        self.sizes = Histogram("conformance_sizes", boundaries=[1, 10], tag_keys=("kind",))

    async def wait(self, name: str) -> str:
        self.notes.append(f"began {name}")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.notes.append(f"cancelled {name}")
            raise
        return name

    async def noted(self) -> list[str]:
        return self.notes

    async def __call__(self, request: Request) -> str:
        self.asked.inc()
        self.asked.inc(2, {"kind": "rare"})
        self.level.set(5, {"kind": "usual"})
        self.sizes.observe(3, {"kind": "usual"})
        return "counted"

    @serve.batch(max_batch_size=2, batch_wait_timeout_s=0.01)
    async def batched(self, numbers: list[int]) -> list[int]:
        return numbers

    async def one_batch(self) -> int:
        return await self.batched(1)

    @serve.multiplexed(max_num_models_per_replica=2)
    async def model(self, model_id: str) -> str:
        return model_id

    async def use_model(self) -> str:
        return str(await self.model("m"))

    async def raises(self, word: str) -> None:
        raise LookupError(word)

    async def unspeakable(self) -> Any:
        return (number for number in range(3)), asyncio.Lock()

    async def exactly_two(self, one: int, two: int) -> int:
        return one + two


@serve.deployment(ray_actor_options=LIGHT, max_constructor_retry_count=1)
class NeverReady:
    def __init__(self) -> None:
        raise RuntimeError("no weights here")

    async def __call__(self) -> str:
        return "never"


@serve.deployment(ray_actor_options=LIGHT)
class Sockets:
    async def __call__(self) -> str:
        return "plain"
