"""What an event loop of this process says when something escapes a callback.

User code may use grpc.aio on its own loop beside ours; the two then share one poller, which makes harmless
BlockingIOError noise (known upstream for years). It is dropped; everything else is logged as asyncio would.
"""

from __future__ import annotations

import asyncio
from typing import Any


def ignore_poller_noise(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    if isinstance(error, BlockingIOError) and "PollerCompletionQueue" in str(context.get("message", "")):
        return
    loop.default_exception_handler(context)
