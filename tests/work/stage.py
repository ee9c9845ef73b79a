"""Actors of the tests, in a module of the program's own."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path
from typing import Any

import serve_rt as serve


class _Counter:
    def __init__(self, start: int = 0) -> None:
        self.value = start
        self.thread = threading.get_ident()

    def add(self, number: int = 1) -> int:
        self.value += number
        return self.value

    def append(self, item: int) -> list[int]:
        """Order shows: each call takes the longer the earlier it is."""
        items: list[int] = self.__dict__.setdefault("items", [])
        time.sleep(0.02 / (1 + len(items)))
        items.append(item)
        return items

    def pid(self) -> int:
        return os.getpid()

    def always_one_thread(self) -> bool:
        return threading.get_ident() == self.thread

    def fail(self, words: str) -> None:
        raise LookupError(words)

    def until_asked(self, path: str) -> None:
        Path(path, "began").touch()
        deadline = time.monotonic() + 20
        while not serve.cancelled() and time.monotonic() < deadline:
            time.sleep(0.01)
        Path(path, "cancelled").touch()


class _Signal:
    """Its async methods meet: without a word about concurrency they run side by side."""

    def __init__(self) -> None:
        self.event = asyncio.Event()

    async def wait(self) -> str:
        await self.event.wait()
        return "went on"

    async def send(self) -> None:
        self.event.set()


class _Broken:
    def __init__(self) -> None:
        raise ValueError("the weights are missing")

    def method(self) -> None:
        pass


# Not as decorators: mypy does not follow those of classes.
_light = serve.actor(num_cpus=0.1)
Counter, Signal, Broken = _light(_Counter), _light(_Signal), _light(_Broken)


@serve.task(num_cpus=0.1)
def add_to(counter: Any, number: int) -> int:
    return int(serve.get(counter.add.remote(number)))


@serve.task(num_cpus=0.1)
def slow(number: int) -> int:
    time.sleep(0.2)
    return number


@serve.task(num_cpus=0.1)
def add_by_name(name: str, number: int) -> int:
    return int(serve.get(serve.get_actor(name).add.remote(number)))


OWNER = """
import os, signal, sys
import serve_rt as serve
from serve_rt.work import lives
from tests.work.stage import Counter
lives.OWNER_GRACE_S = 1.0
mine = Counter.remote(1)
stays = Counter.options(name="stays", lifetime="detached").remote(2)
print(serve.get(mine.add.remote()), serve.get(stays.add.remote()), mine.app_name, flush=True)
sys.stdin.readline()
"""
"""A program that makes actors, and ends when its input ends."""
