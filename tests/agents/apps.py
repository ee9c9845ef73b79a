"""User code of the agent's tests, packed by value: replicas cannot import the tests."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections import deque
from typing import Any


class Hello:
    async def __call__(self, request: Any) -> str:  # Any: a Starlette request, not imported here
        return f"hello from {os.getpid()}"


class Raises:
    def __init__(self) -> None:
        raise ValueError("no weights here")


class Leaves:
    def __init__(self) -> None:
        os._exit(3)


class Hangs:
    def __init__(self) -> None:
        self.wait_for_weights()

    def wait_for_weights(self) -> None:
        time.sleep(3600.0)


class HangsAwaiting:
    async def __init__(self) -> None:  # type: ignore[misc]  # awaited by the replica, as in Ray
        await self.wait_for_weights()

    async def wait_for_weights(self) -> None:
        await asyncio.Event().wait()


class HangsInC:
    """No thread of the process runs any more: the interpreter's lock is never given back."""

    def __init__(self) -> None:
        deque(itertools.repeat(None), maxlen=0)
