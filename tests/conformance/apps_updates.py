"""A deployment that says which process it is, under its own name in several cases."""

from __future__ import annotations

import asyncio
import os

import serve_rt as serve
from serve_rt.api.replica_context import ReplicaRank
from tests.conformance.asking import LIGHT


@serve.deployment(ray_actor_options=LIGHT)
class Process:
    def __init__(self, word: str = "") -> None:
        self.word = word
        self.told: list[int] = []

    def reconfigure(self, config: object, rank: ReplicaRank) -> None:
        self.told.append(rank.rank)

    def numbers(self) -> tuple[int, int, list[int]]:
        """Rank, size of the world, the ranks that `reconfigure` was told."""
        context = serve.get_replica_context()
        return context.rank.rank, context.world_size, self.told

    def pid(self) -> int:
        return os.getpid()

    def env(self, name: str) -> str | None:
        return os.environ.get(name)

    def get_word(self) -> str:
        return self.word


@serve.deployment(ray_actor_options=LIGHT, user_config={"level": 1})
class Configured:
    """Takes its time, and only numbers."""

    def __init__(self) -> None:
        self.level = 0.0

    async def reconfigure(self, config: dict[str, object]) -> None:
        await asyncio.sleep(0.2)
        self.level = float(str(config["level"]))

    def state(self) -> tuple[int, float]:
        return os.getpid(), self.level
