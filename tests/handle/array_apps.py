"""Deployments that take and give arrays; they travel in the code snapshot, by name."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np

import serve_rt as serve


class _Arrays:
    """Its methods are sync: a thread may take its time with 100 MB."""

    def total(self, array: Any) -> tuple[float, bool, bool]:
        """The sum, whether the array can be written to, whether it owns its memory."""
        answer = float(array.sum()), bool(array.flags.writeable), bool(array.flags.owndata)
        if array.flags.writeable:
            array[:] = 0  # must not be seen by anybody else
        return answer

    def ones(self, size: int) -> Any:
        return np.ones(size, np.uint8)

    def pair(self, size: int) -> dict[str, Any]:
        return {"left": np.full(size, 1.5), "right": [np.arange(size), "text"]}

    def length(self, data: bytes) -> tuple[str, int]:
        return type(data).__name__, len(data)

    def double(self, tensor: Any) -> Any:
        tensor *= 2
        return tensor

    def rows(self, count: int, size: int) -> Iterator[Any]:
        for number in range(count):
            yield np.full(size, number, np.int32)

    async def async_rows(self, count: int, size: int) -> AsyncIterator[Any]:
        for number in range(count):
            yield np.full(size, number, np.int32)

    def threads(self) -> int:
        return threading.active_count()

    async def nothing(self) -> float:
        return time.monotonic()


class _Forwarder:
    def __init__(self, arrays: Any) -> None:
        self.arrays = arrays

    async def total(self, size: int) -> Any:
        """The array goes from one replica to another as it came, through this one unopened."""
        return await self.arrays.total.remote(self.arrays.ones.remote(size))


Arrays = serve.deployment(_Arrays)
Forwarder = serve.deployment(_Forwarder)
