"""`serve.batch` on async generators, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from serve_rt.batching.decorator import batch
from tests.batching.virtual import run


def test_streams_end_one_by_one() -> None:
    @batch(max_batch_size=3)
    async def count(items: list[int]) -> AsyncIterator[list[Any]]:
        for step in range(max(items)):
            yield [step if step < item else StopIteration for item in items]

    async def read(item: int) -> list[Any]:
        return [value async for value in count(item)]

    async def main() -> None:
        assert list(await asyncio.gather(read(1), read(3), read(2))) == [[0], [0, 1, 2], [0, 1]]

    run(main())


def test_a_stream_whose_readers_left_is_closed() -> None:
    ended: list[str] = []

    @batch(max_batch_size=2, batch_wait_timeout_s=0.01)
    async def forever(items: list[int]) -> AsyncIterator[list[int]]:
        try:
            while True:
                await asyncio.sleep(1)
                yield items
        finally:
            ended.append("closed")

    async def main() -> None:
        stream: Any = forever(1)
        async for value in stream:
            assert value == 1
            break
        await stream.aclose()
        await asyncio.sleep(0.1)
        assert ended == ["closed"]

    run(main())


def test_a_stream_that_breaks_tells_every_reader() -> None:
    @batch(max_batch_size=2)
    async def broken(items: list[int]) -> AsyncIterator[list[int]]:
        yield items
        raise ValueError("broken")

    async def read(item: int) -> list[int]:
        values = []
        with pytest.raises(ValueError, match="broken"):
            async for value in broken(item):
                values.append(value)
        return values

    async def main() -> None:
        assert list(await asyncio.gather(read(1), read(2))) == [[1], [2]]

    run(main())
