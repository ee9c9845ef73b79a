"""Ends generators of user code properly: whatever stopped them, their `finally` runs."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Iterator
from typing import Any

from serve_rt.replica.call import Call


def each_item(call: Call, items: Iterator[Any]) -> Iterator[Any]:  # Any: what user code yields
    """The items of a sync generator until the call is cancelled; the generator is closed at the end."""
    try:
        for item in items:
            if call.cancelled:
                return
            yield item
    finally:
        close = getattr(items, "close", None)
        if close is not None:
            close()


async def end_async_generator(items: AsyncIterator[Any], *, cancelled: bool) -> None:
    """Close a generator that stands at a `yield`; after a cancellation it sees CancelledError there, as it would at
    an `await`. One that has ended already is left as it is."""
    if not inspect.isasyncgen(items):
        return
    if cancelled and items.ag_frame is not None:
        try:
            await items.athrow(asyncio.CancelledError())
        except (asyncio.CancelledError, StopAsyncIteration):
            pass
    await items.aclose()
