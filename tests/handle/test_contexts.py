"""What a request asks for in passing does not keep the request: timers and streams begun for it outlive it."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections.abc import Callable

import pytest

from serve_rt.context import RequestContext, current_request
from serve_rt.handle.runtime import HandleRuntime
from serve_rt.replica.crossing import Crossing


async def _no_routes() -> None:
    raise AssertionError("nobody calls here")


def _poster(kind: str, loop: asyncio.AbstractEventLoop) -> Callable[[Callable[[], object]], None]:
    if kind == "crossing":
        return Crossing(loop, "test").post
    return HandleRuntime(loop, _no_routes).post  # type: ignore[arg-type]  # no routes are opened


@pytest.mark.parametrize("kind", ["crossing", "runtime"])
def test_a_timer_begun_over_there_does_not_keep_the_request(kind: str) -> None:
    """Once a replica's first request stayed "in use" with its model, because its log line had started a timer."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        post = _poster(kind, loop)
        timers: list[asyncio.TimerHandle] = []

        async def request() -> weakref.ref[object]:
            context = RequestContext()
            current_request.set(context)
            post(lambda: timers.append(loop.call_later(60, print)))
            return weakref.ref(context.cancelled)

        kept = await asyncio.create_task(request())
        await asyncio.sleep(0)
        assert timers
        gc.collect()
        assert kept() is None
        timers[0].cancel()

    asyncio.run(main())


def test_a_step_that_fails_holds_up_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> list[int]:
        runtime = HandleRuntime(asyncio.get_running_loop(), _no_routes)  # type: ignore[arg-type]  # as above
        done: list[int] = []
        runtime.post(lambda: 1 / 0)
        runtime.post(done.append, 2)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return done

    with caplog.at_level(logging.ERROR):
        assert asyncio.run(main()) == [2]
    assert "a step of a call failed" in caplog.text
