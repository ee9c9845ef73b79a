"""Waiting in one event loop for what happens in another thread or loop, without being able to harm it.

`asyncio.wrap_future` ties both ends together: a waiter that is cancelled cancels what it waits for, and with it all
other waiters. Here a waiter only listens.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from typing import Any


async def settled(answer: concurrent.futures.Future[Any]) -> None:
    """Return when `answer` has a result or an error; reading it is left to the caller."""
    if answer.done():
        return
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    answer.add_done_callback(lambda _: wake(loop, ready))
    await ready


def wake(loop: asyncio.AbstractEventLoop, waiter: asyncio.Future[None]) -> None:
    """Let `waiter` of `loop` go on; from any thread, also when its loop is closed by now."""
    try:
        loop.call_soon_threadsafe(_set, waiter)
    except RuntimeError:  # that loop is closed: nobody waits there any more
        pass


def _set(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
