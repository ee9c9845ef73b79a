"""Tasks with an owner and a name.

An object with background work keeps a `TaskOwner`; `close()` cancels what still runs and waits for it. An *eternal*
task is one that must never end by itself: when it does, `on_failure` is told, because a silent dead loop is the worst
kind of bug a long-running process has.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

log = logging.getLogger(__name__)


async def cancel_and_wait(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel the tasks and return when all have ended; their errors are dropped, ours (cancellation) is not."""
    alive = [task for task in tasks if task is not None]
    for task in alive:
        task.cancel()
    running = [task for task in alive if not task.done()]
    if running:
        await asyncio.gather(*running, return_exceptions=True)
    for task in alive:
        if not task.cancelled():
            task.exception()  # looked at: nobody is to be told that it was not


class TaskOwner:
    """Owns background tasks.

    *Resources*: the creator awaits `close()`.
    """

    def __init__(self, name: str, on_failure: Callable[[BaseException], None] | None = None) -> None:
        self._name = name
        self._on_failure = on_failure
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    def start(self, coro: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
        """Run `coro` until it ends; an exception is logged and reported."""
        if self._closed:
            coro.close()
            raise RuntimeError(f"{self._name} is closed: cannot start {name!r}")
        task = asyncio.get_running_loop().create_task(coro, name=f"{self._name}: {name}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def start_eternal(self, coro: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
        """As `start`, but a normal end is a failure too."""
        task = self.start(coro, name=name)
        task.add_done_callback(self._eternal_ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or task.exception() is None:
            return
        error = task.exception()
        assert error is not None
        log.error("task %s failed", task.get_name(), exc_info=error, extra={"action": "task_failed"})
        if self._on_failure is not None:
            self._on_failure(error)

    def _eternal_ended(self, task: asyncio.Task[Any]) -> None:
        if task.cancelled() or task.exception() is not None or self._closed:
            return
        log.error("eternal task %s ended", task.get_name(), extra={"action": "task_ended"})
        if self._on_failure is not None:
            self._on_failure(RuntimeError(f"eternal task {task.get_name()} ended"))

    async def close(self) -> None:
        self._closed = True
        current = asyncio.current_task()
        await cancel_and_wait(*(task for task in self._tasks if task is not current))

    def __len__(self) -> int:
        return len(self._tasks)
