"""Loops of tests share gRPC's one poller: what arrives late for a loop that is closed is no error of the next test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
async def deaf_to_closed_loops(anyio_backend: str) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    handler = loop.get_exception_handler() or (lambda loop, context: loop.default_exception_handler(context))

    def filtered(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if "PollerCompletionQueue" in str(context.get("message", "")) and str(context.get("exception")) in _LATE:
            return
        handler(loop, context)

    loop.set_exception_handler(filtered)
    yield
    loop.set_exception_handler(handler)


_LATE = ("Event loop is closed",)
