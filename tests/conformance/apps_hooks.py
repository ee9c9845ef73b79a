"""Deployments with every hook a class may have, and answers of every kind.

They travel in the code snapshot, by name.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy
import pydantic
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, StreamingResponse

import serve_rt as serve
from tests.conformance.asking import LIGHT


@serve.deployment(ray_actor_options=LIGHT)
class Hooked:
    """Async where it may be."""

    async def __init__(self, notes: str = "") -> None:  # type: ignore[misc]  # Serve awaits it
        await asyncio.sleep(0)
        self.notes = notes
        self.loop = asyncio.get_running_loop()
        self.calls: list[str] = ["init"]
        self.config: Any = None
        self.stats_asked = 0

    async def reconfigure(self, config: Any) -> None:
        self.calls.append("reconfigure")
        if config.get("wrong"):
            raise ValueError(f"cannot work with {config}")
        self.config = config

    async def check_health(self) -> None:
        self.calls.append("check_health")

    async def record_routing_stats(self) -> dict[str, Any]:
        self.stats_asked += 1
        return {"asked": self.stats_asked}

    async def __del__(self) -> None:
        with Path(self.notes).open("a") as notes:
            notes.write(f"deleted {os.getpid()}\n")

    async def seen(self) -> dict[str, Any]:
        return {
            "calls": self.calls,
            "config": self.config,
            "pid": os.getpid(),
            "on_the_loop": asyncio.get_running_loop() is self.loop,
            "max_ongoing": serve.get_replica_context().max_ongoing_requests,
            "stats_asked": self.stats_asked,
        }

    async def __call__(self) -> str:
        return "called with nothing"


@serve.deployment(ray_actor_options=LIGHT)
class SyncHooked:
    def __init__(self, notes: str) -> None:
        self.notes = notes
        self.config: Any = None
        self.rank: Any = None
        self.stats_asked = 0
        self.sick = False

    def reconfigure(self, config: Any, rank: Any) -> None:
        self.config, self.rank = config, rank

    def check_health(self) -> None:
        if self.sick:
            raise RuntimeError("I do not feel well")

    def record_routing_stats(self) -> dict[str, Any]:
        self.stats_asked += 1
        raise RuntimeError("no stats today")

    def __del__(self) -> None:
        with Path(self.notes).open("a") as notes:
            notes.write(f"deleted {os.getpid()}\n")

    def seen(self) -> dict[str, Any]:
        rank = None if self.rank is None else self.rank.rank
        return {"config": self.config, "rank": rank, "pid": os.getpid(), "stats_asked": self.stats_asked}

    def fall_ill(self) -> None:
        self.sick = True


@serve.deployment(ray_actor_options=LIGHT)
class Bare:
    """No hooks; methods of every kind."""

    def __init__(self) -> None:
        self.meeting = threading.Barrier(3, timeout=10)
        self.inside = 0

    def meet(self) -> int:
        """Returns when three calls are in it at a time."""
        return self.meeting.wait()

    async def overlap(self) -> int:
        self.inside += 1
        while self.inside < 3:  # noqa: ASYNC110  # an Event would hide a second loop
            await asyncio.sleep(0.005)
        return threading.get_ident()

    def count(self, limit: int) -> Iterator[int]:
        yield from range(limit)

    def positional_and_named(self, one: int, /, two: int, *rest: int, three: int = 3, **others: int) -> list[Any]:
        return [one, two, rest, three, others]

    @staticmethod
    def static(value: int) -> int:
        return value + 1

    @classmethod
    def of_class(cls) -> str:
        return cls.__name__


@serve.deployment(ray_actor_options=LIGHT, max_constructor_retry_count=3, user_config={"a": 1})
class Unconfigurable: ...


@serve.deployment(ray_actor_options=LIGHT, max_constructor_retry_count=1)
class BornSick:
    def check_health(self) -> None:
        raise RuntimeError("ill from birth")


@serve.deployment(ray_actor_options=LIGHT, max_constructor_retry_count=1)
class BadMetadata:
    def record_replica_metadata(self) -> Any:
        return ["not", "a", "dict"]


@serve.deployment(ray_actor_options=LIGHT, max_constructor_retry_count=4)
class Unlucky:
    """Starts at the third try."""

    def __init__(self, notes: str) -> None:
        with Path(notes).open("a") as file:
            file.write("try\n")
        self.tries = Path(notes).read_text().count("try")
        if self.tries < 3:
            raise OSError(f"no luck the {self.tries}. time")

    def how_many(self) -> int:
        return self.tries


# --- answers ----------------------------------------------------------------------------------------------------------


class Point(pydantic.BaseModel):
    x: int
    y: float


@dataclasses.dataclass
class Pair:
    left: str
    right: list[int]


def _numbers() -> Iterator[str]:
    for number in range(3):
        yield f"{number}\n"


async def _slow_numbers() -> AsyncIterator[str]:
    for number in range(3):
        yield f"{number} {time.time()}\n"
        await asyncio.sleep(0.1)


ANSWERS: dict[str, Any] = {
    "none": lambda: None,
    "text": lambda: "grüße",
    "bytes": lambda: b"\x00\xff",
    "dict": lambda: {"a": [1, 2.5, None, True]},
    "list": lambda: [1, "two"],
    "number": lambda: 42,
    "false": lambda: False,
    "model": lambda: Point(x=1, y=2.5),
    "models": lambda: {"points": [Point(x=1, y=2)]},
    "dataclass": lambda: Pair("l", [1]),
    "array": lambda: numpy.arange(4).reshape(2, 2),
    "scalar": lambda: {"f": numpy.float32(0.5), "i": numpy.int64(7), "b": numpy.bool_(True)},
    "exception": lambda: {"error": ValueError("as a value")},
    "set": lambda: {"s": {3}},
    "html": lambda: HTMLResponse("<p>hi</p>", status_code=201, headers={"x-made-by": "hand"}),
    "json": lambda: JSONResponse({"a": 1}, status_code=418),
    "redirect": lambda: RedirectResponse("/elsewhere", status_code=303),
    "stream": lambda: StreamingResponse(_numbers(), media_type="text/plain", status_code=202),
    "slow": lambda: StreamingResponse(_slow_numbers(), media_type="text/event-stream"),
}


@serve.deployment(ray_actor_options=LIGHT)
class Answers:
    async def __call__(self, request: Request) -> Any:
        kind = request.query_params.get("kind", "")
        if kind == "echo":
            return {
                "method": request.method,
                "query": dict(request.query_params),
                "header": request.headers.get("x-mine"),
                "cookie": request.cookies.get("c"),
                "body": (await request.body()).decode(),
            }
        if kind == "raise":
            raise ValueError("secret words of the program")
        return ANSWERS[kind]()


@serve.deployment(ray_actor_options=LIGHT)
class SyncAnswers:
    def __call__(self, request: Request) -> Any:
        return ANSWERS[request.query_params["kind"]]()


@serve.deployment(ray_actor_options=LIGHT)
class Generator:
    def __call__(self, request: Request) -> Iterator[Any]:
        yield "one\n"
        yield b"two\n"
        yield {"three": 3}


@serve.deployment(ray_actor_options=LIGHT)
async def async_generator(request: Request) -> AsyncIterator[str]:
    for word in ("a", "b", request.query_params.get("last", "c")):
        yield word
        await asyncio.sleep(0)
