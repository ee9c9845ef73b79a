"""A call that is cancelled before its task has taken a step: whoever waits for it must hear of it."""

from __future__ import annotations

import asyncio

import pytest

from serve_rt.errors import RequestCancelledError
from serve_rt.handle.call import Call, CallOptions
from serve_rt.handle.response import ValueSink
from serve_rt.handle.runtime import HandleRuntime, RouteSource
from serve_rt.model.ids import AppName, DeploymentKey, DeploymentName


def test_cancelled_before_its_first_step_is_settled() -> None:
    async def no_routes() -> RouteSource:
        raise AssertionError("never asked for")

    async def run() -> None:
        runtime = HandleRuntime(asyncio.get_running_loop(), no_routes)
        sink = ValueSink()
        key = DeploymentKey(AppName("app"), DeploymentName("D"))
        call = Call(runtime, key, CallOptions(), (), {}, sink)
        call._begin()
        call._stop()  # in the same turn of the loop: a cancel that was posted while `start` was worked off
        for _ in range(3):
            await asyncio.sleep(0)
        with pytest.raises(RequestCancelledError):
            sink.answer.result(timeout=0)

    asyncio.run(run())
