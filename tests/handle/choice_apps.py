"""Deployments for choosing, broadcasting and composing; they travel in the code snapshot, by name."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import serve_rt as serve


class _Node:
    def __init__(self) -> None:
        self.told: list[Any] = []
        self.gate = asyncio.Event()

    async def who(self) -> tuple[int, str]:
        return os.getpid(), serve.get_replica_context().replica_id

    async def hold(self) -> int:
        await self.gate.wait()
        return os.getpid()

    async def hang(self) -> None:
        await asyncio.sleep(1000)

    async def let_go(self) -> None:
        self.gate.set()

    def tell(self, word: Any) -> tuple[int, Any]:
        self.told.append(word)
        return os.getpid(), word

    async def heard(self) -> list[Any]:
        return self.told

    async def count(self, limit: int) -> AsyncIterator[int]:
        for number in range(limit):
            yield number

    async def fail(self, text: str) -> None:
        raise LookupError(text)

    async def fail_on(self, pid: int) -> int:
        if os.getpid() == pid:
            raise LookupError("not here")
        return os.getpid()

    async def echo(self, *args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    async def end(self) -> None:
        os._exit(3)


class _Front:
    """Chooses and composes from inside a replica."""

    def __init__(self, node: Any) -> None:
        self.node = node

    async def choose(self) -> tuple[str, str]:
        async with self.node.choose_replica() as selection:
            _, replica_id = await self.node.who.dispatch(selection)
            return selection.replica_id, replica_id

    async def call(self, handle: Any, method: str, *args: Any) -> Any:
        """`handle` came as an argument."""
        return await getattr(handle, method).remote(*args)

    async def tell_everybody(self, word: str) -> list[Any]:
        return list(await self.node.broadcast("tell", word).results_async())

    async def nested(self) -> str:
        try:
            self.node.echo.remote([self.node.echo.remote(1)])
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return "nothing was raised"


Node = serve.deployment(_Node)
Front = serve.deployment(_Front)
