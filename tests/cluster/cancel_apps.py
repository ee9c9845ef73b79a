"""User code that notes what a cancellation does to it, in every shape user code has.

A ledger line is `<key> <word> <monotonic time>`. Copied beside `apps.py`; `deploy.py` finds it in `BUILDERS`.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

import serve_rt as serve
from serve_rt.exceptions import RequestCancelledError
from serve_rt.handle import DeploymentHandle

HANG_S = 30.0
SYNC_END_S = 0.6
"""A sync handler that saw its cancellation takes this long to end: its slot is taken until then."""
BATCH_WAIT_S = 0.8


class Notes:
    def __init__(self, ledger: str) -> None:
        self._file = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def __call__(self, key: str, word: str) -> None:
        os.write(self._file, f"{key} {word} {time.monotonic():.4f}\n".encode())


class Work:
    """The end of the chain."""

    def __init__(self, ledger: str) -> None:
        self.note = Notes(ledger)

    async def hang(self, key: str) -> None:
        self.note(key, "begun")
        try:
            await asyncio.sleep(HANG_S)
        except asyncio.CancelledError:
            self.note(key, "cancelled")
            raise

    async def items(self, key: str) -> AsyncIterator[int]:
        self.note(key, "begun")
        try:
            for number in range(int(HANG_S * 50)):
                yield number
                await asyncio.sleep(0.02)
        finally:
            self.note(key, "cancelled")

    def sync(self, key: str) -> None:
        self.note(key, "begun")
        until = time.monotonic() + HANG_S
        while not serve.cancelled() and time.monotonic() < until:
            time.sleep(0.005)
        self.note(key, "cancelled" if serve.cancelled() else "gave up")
        time.sleep(SYNC_END_S)
        self.note(key, "left")

    @serve.batch(max_batch_size=8, batch_wait_timeout_s=BATCH_WAIT_S)
    async def batched(self, keys: list[str]) -> list[None]:
        for key in keys:
            self.note(key, "ran")
        return [None] * len(keys)

    async def in_batch(self, key: str) -> None:
        self.note(key, "begun")
        try:
            await self.batched(key)
        except asyncio.CancelledError:
            self.note(key, "cancelled")
            raise


class Blocking:
    """A sync handler that waits for its child in a thread, where no CancelledError can reach it."""

    def __init__(self, work: DeploymentHandle[Any]) -> None:
        self.work = work

    def __call__(self, key: str) -> None:
        self.work.hang.remote(key).result()


class Caller:
    """An async one in between: awaits its child, or lets it run unattended."""

    def __init__(self, work: DeploymentHandle[Any]) -> None:
        self.work = work

    async def awaited(self, key: str) -> None:
        await self.work.hang.remote(key)

    async def unattended(self, key: str) -> None:
        response = self.work.hang.remote(key)
        await asyncio.sleep(HANG_S)
        await response

    async def items(self, key: str) -> AsyncIterator[int]:
        items: Any = self.work.options(method_name="items", stream=True).remote(key)
        async for item in items:
            yield item


class Front:
    """`/?do=…&key=…`, and with `cut=cancel` it cancels the call it made, some time after the work has begun."""

    def __init__(self, ledger: str, work: Any, narrow: Any, blocking: Any, caller: Any) -> None:
        self.note = Notes(ledger)
        self.starts: dict[str, Callable[[str], Any]] = {
            "child": caller.awaited.remote,
            "unattended": caller.unattended.remote,
            "thread": blocking.remote,
            "sync": work.sync.remote,
            "queued": narrow.hang.remote,
            "batch": work.in_batch.remote,
            "stream": caller.options(method_name="items", stream=True).remote,
        }

    async def __call__(self, request: Request) -> Response:
        query = request.query_params
        do, key = query["do"], query["key"]
        if do == "own":
            return await self.own(key)
        response = self.starts[do](key)
        if query.get("cut") == "cancel":
            asyncio.get_running_loop().call_later(float(query["after_s"]), self.cancel, key, response)
        if do == "stream":
            return StreamingResponse(self.lines(response), media_type="text/plain")
        try:
            await response
        except RequestCancelledError:
            return PlainTextResponse("cancelled", 409)
        return PlainTextResponse("done")

    async def own(self, key: str) -> Response:
        self.note(key, "begun")
        try:
            await asyncio.sleep(HANG_S)
        except asyncio.CancelledError:
            self.note(key, "cancelled")
            raise
        return PlainTextResponse("done")

    def cancel(self, key: str, response: Any) -> None:
        self.note(key, "cut")
        response.cancel()

    async def lines(self, items: Any) -> AsyncIterator[str]:
        try:
            async for item in items:
                yield f"{item}\n"
        except RequestCancelledError:
            yield "cancelled\n"


def cancels(options: dict[str, Any], ledger: str) -> serve.Application:
    work = serve.deployment(Work).options(**options).bind(ledger)
    narrow = serve.deployment(Work).options(name="Narrow", max_ongoing_requests=1, **options).bind(ledger)
    blocking = serve.deployment(Blocking).options(**options).bind(work)
    caller = serve.deployment(Caller).options(**options).bind(work)
    return serve.deployment(Front).options(**options).bind(ledger, work, narrow, blocking, caller)


BUILDERS = {"cancels": cancels}
