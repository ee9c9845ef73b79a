"""Applications that handles are tried on; they travel in the code snapshot, by name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from starlette.requests import Request

import serve_rt as serve
from tests.conformance.asking import LIGHT


class OddError(ValueError):
    """With a shape of its own."""

    def __init__(self, word: str, code: int) -> None:
        super().__init__(word)
        self.code = code

    def __reduce__(self) -> tuple[Any, tuple[str, int]]:
        return (OddError, (self.args[0], self.code))


class Model:
    def __init__(self, name: str, notes: str) -> None:
        self.name, self.notes = name, notes

    def __del__(self) -> None:
        if self.name == "hard to part with":
            raise OSError("no")
        if self.notes:
            with Path(self.notes).open("a") as file:
                file.write(self.name + "\n")


@serve.deployment(ray_actor_options=LIGHT, max_ongoing_requests=50)
class Worker:
    def __init__(self, notes: str = "") -> None:
        self.seen: list[str] = []
        self.gates: dict[str, asyncio.Event] = {}
        self.notes = notes

    async def __call__(self, *args: Any) -> Any:
        if args and isinstance(args[0], Request):
            model = await self.model(serve.get_multiplexed_model_id())
            return {"model": model.name}
        return args

    def who(self) -> str:
        return serve.get_replica_context().replica_id

    def echo(self, *args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    async def wait(self, name: str) -> str:
        """Until `let_go`; notes how it ended."""
        self.seen.append(f"began {name}")
        try:
            await self.gates.setdefault(name, asyncio.Event()).wait()
            return name
        except asyncio.CancelledError:
            self.seen.append(f"cancelled {name}")
            raise

    async def let_go(self, name: str) -> None:
        self.gates.setdefault(name, asyncio.Event()).set()

    async def noted(self) -> list[str]:
        return self.seen

    async def fail(self, word: str) -> None:
        raise OddError(word, 7)

    def fail_in_a_thread(self, word: str) -> None:
        raise OddError(word, 8)

    async def fail_where(self, replica: str) -> str:
        if self.who() == replica:
            raise OddError("here", 9)
        return "elsewhere"

    async def count(self, limit: int) -> AsyncIterator[int]:
        for number in range(limit):
            yield number

    def count_in_a_thread(self, limit: int) -> Iterator[int]:
        yield from range(limit)

    async def count_until_it_breaks(self, limit: int) -> AsyncIterator[int]:
        for number in range(limit):
            yield number
        raise OddError("broke", limit)

    async def count_for_ever(self, name: str) -> AsyncIterator[int]:
        number = 0
        try:
            while True:
                yield number
                number += 1
                await asyncio.sleep(0.005)
        finally:
            self.seen.append(f"closed {name}")

    # --- models

    @serve.multiplexed(max_num_models_per_replica=2)
    async def model(self, model_id: str) -> Model:
        self.seen.append(f"loading {model_id}")
        if model_id.startswith("slow"):
            await self.gates.setdefault(model_id, asyncio.Event()).wait()
        self.seen.append(f"loaded {model_id}")
        return Model(model_id, self.notes)

    @serve.multiplexed(max_num_models_per_replica=1)
    async def tokenizer(self, model_id: str) -> str:
        self.seen.append(f"tokenizer {model_id}")
        return f"tokenizer of {model_id}"

    async def use(self) -> str:
        return str((await self.model(serve.get_multiplexed_model_id())).name)

    async def use_and_wait(self, name: str) -> str:
        model = await self.model(serve.get_multiplexed_model_id())
        await self.wait(name)
        return str(model.name)

    async def use_both(self) -> tuple[str, str]:
        model_id = serve.get_multiplexed_model_id()
        return (await self.model(model_id)).name, await self.tokenizer(model_id)

    async def load_nothing(self, model_id: Any) -> None:
        await self.model(model_id)


@serve.deployment(ray_actor_options=LIGHT)
class Front:
    """Calls workers from inside a replica."""

    def __init__(self, worker: Any, others: dict[str, list[Any]] | None = None) -> None:
        self.worker, self.others = worker, others or {}

    async def same_replica(self) -> bool:
        mine = await self.worker.who.remote()
        return all([await one.who.remote() == mine for one in self.others["again"]])

    async def wait_below(self, name: str) -> str:
        return str(await self.worker.wait.remote(name))

    async def relay(self, limit: int) -> AsyncIterator[int]:
        async for number in self.worker.count.options(stream=True).remote(limit):
            yield 10 * number

    async def chain(self, number: int) -> Any:
        """A response goes from one call to the next."""
        first = self.worker.echo.remote(number)
        return await self.worker.echo.remote(first, again=first)

    async def wrong_in_a_loop(self) -> list[str]:
        """What is for threads is refused here, and the other way is named."""
        response = self.worker.who.remote()
        stream = self.worker.count.options(stream=True).remote(1)
        said = []
        for step in (response.result, stream.__next__, lambda: self.worker.broadcast("who").results()):
            try:
                step()
            except RuntimeError as error:
                said.append(str(error))
        await response
        return said


@serve.deployment(ray_actor_options=LIGHT)
class Top:
    def __init__(self, middle: Any) -> None:
        self.middle = middle

    async def relay(self, limit: int) -> AsyncIterator[int]:
        async for number in self.middle.relay.options(stream=True).remote(limit):
            yield number + 1


@serve.deployment(ray_actor_options=LIGHT, max_ongoing_requests=1, max_queued_requests=1)
class Narrow:
    def __init__(self) -> None:
        self.gate = asyncio.Event()

    async def wait(self) -> str:
        await self.gate.wait()
        return "done"

    async def let_go(self) -> None:
        self.gate.set()
