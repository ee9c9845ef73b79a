"""User code of the agent's tests, packed by value: replicas cannot import the tests."""

from __future__ import annotations

import os
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
