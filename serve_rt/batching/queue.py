"""The queue before one batched function of one instance: first in, first out, without a task per item.

A batch starts when it is full, or when its oldest item has waited `batch_wait_timeout_s`; at most
`max_concurrent_batches` run at a time, each as one task. Callers that leave give up their place. Whatever the function
does (raise, return nonsense, be cancelled, exit), every caller of the batch gets an answer and the next batch starts.
Event loop only: all of it happens on the loop of its callers.
"""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from serve_rt.batching import measured
from serve_rt.batching.items import Item
from serve_rt.batching.settings import BatchSettings
from serve_rt.context import RequestContext, current_request
from serve_rt.errors import ServeException

batch_requests: contextvars.ContextVar[tuple[RequestContext | None, ...]] = contextvars.ContextVar(
    "serve_batch_requests", default=()
)
"""Inside a batch: the context of each of its items, in order."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One run of the function on its way."""

    items: tuple[Item, ...]
    started: float
    """On the loop's clock."""


class BatchQueue:
    def __init__(self, function: Callable[..., Any], settings: BatchSettings, loop: asyncio.AbstractEventLoop) -> None:
        self._function = function
        self._settings = settings
        self._loop = loop
        self._waiting: deque[Item] = deque()
        self._fitting = 0
        """With a batch_size_fn: how many items from the head are known to fit together."""
        self._timer: asyncio.Handle | None = None
        self.running: dict[asyncio.Task[None], Batch] = {}
        self.name = str(getattr(function, "__name__", type(function).__name__))
        measured.watch(self)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        return not self.running and not self._waiting

    def put(self, item: Item) -> None:
        self._waiting.append(item)
        self.pump()

    def leave(self, item: Item) -> None:
        """The caller is gone: it gives up its place; a batch that nobody waits for any more is cancelled."""
        item.gone = True
        if item in self._waiting:
            self._waiting.remove(item)
            self._fitting = 0
            return
        for task, batch in self.running.items():
            if item in batch.items and all(one.gone for one in batch.items):
                task.cancel()

    def pump(self) -> None:
        """Start what may start, or set the timer for it."""
        self._stop_timer()
        while self._waiting and len(self.running) < self._settings.max_concurrent_batches:
            due_in_s = self._waiting[0].arrived + self._settings.batch_wait_timeout_s - self._loop.time()
            if not self._is_full() and due_in_s > 0:
                self._timer = self._loop.call_later(due_in_s, self._due)
                return
            if self._settings.batch_wait_timeout_s == 0 and not self._is_full():
                self._timer = self._loop.call_soon(self._start)  # those that come in this same turn come along
                return
            self._start_batch()

    def _due(self) -> None:
        # The loop's clock may be a hair before the time asked for: do not set another timer for that.
        self._timer = None
        self._start()

    def _start(self) -> None:
        self._timer = None
        if self._waiting and len(self.running) < self._settings.max_concurrent_batches:
            self._start_batch()
        self.pump()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- making up a batch

    def _is_full(self) -> bool:
        settings = self._settings
        if settings.batch_size_fn is None:
            return len(self._waiting) >= settings.max_batch_size
        self._measure(settings.batch_size_fn)
        return self._fitting < len(self._waiting)

    def _measure(self, size_of: Callable[[list[Any]], int]) -> None:
        while self._fitting < len(self._waiting):
            candidate = [self._waiting[index].value() for index in range(self._fitting + 1)]
            try:
                if size_of(candidate) > self._settings.max_batch_size:
                    return
            except Exception:  # user code: taking the batch finds the item it fails on
                return
            self._fitting += 1

    def _take(self) -> list[Item]:
        """The next batch's items, oldest first. An item that can never fit is failed and left out."""
        taken: list[Item] = []
        while self._waiting and len(taken) < self._limit():
            item = self._waiting[0]
            if taken and item.shape() != taken[0].shape():
                break
            if not self._fits(taken, item):
                if taken:
                    break
                self._waiting.popleft()
                continue
            taken.append(self._waiting.popleft())
        self._fitting = 0
        return taken

    def _limit(self) -> int:
        """In items; with a batch_size_fn it alone decides."""
        return self._settings.max_batch_size if self._settings.batch_size_fn is None else sys.maxsize

    def _fits(self, taken: Sequence[Item], item: Item) -> bool:
        size_of = self._settings.batch_size_fn
        if size_of is None:
            return True
        try:
            size = size_of([one.value() for one in (*taken, item)])
        except Exception as error:  # user code failed on this item
            if not taken:
                item.fail(error)
            return False
        if size > self._settings.max_batch_size and not taken:
            item.fail(
                RuntimeError(
                    f"Size of item is greater than max_batch_size: {size} > {self._settings.max_batch_size}. "
                    "Raise max_batch_size or send smaller items."
                )
            )
        return size <= self._settings.max_batch_size

    # --- running it

    def _start_batch(self) -> None:
        items = self._take()
        if not items:
            return
        context = contextvars.copy_context()
        context.run(_enter, items)
        task = self._loop.create_task(self._run(items), name="serve batch", context=context)
        now = self._loop.time()
        self.running[task] = Batch(tuple(items), now)
        measured.started(self.name, [now - item.arrived for item in items], self._settings.max_batch_size)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        batch = self.running.pop(task)
        items = batch.items
        measured.ended(self.name, self._loop.time() - batch.started)
        if task.cancelled():  # before its first step, when not even its own except clause was reached
            for item in items:
                item.fail(ServeException("the batch was cancelled"))
        self.pump()

    async def _run(self, items: list[Item]) -> None:
        columns = [list(column) for column in zip(*(item.args for item in items), strict=True)]
        names = items[0].names
        positional = columns[: len(columns) - len(names)]
        keywords = dict(zip(names, columns[len(positional) :], strict=True))
        try:
            answer = self._function(*positional, **keywords)
            if isinstance(answer, AsyncIterator):
                await _hand_out_stream(answer, items)
            else:
                _hand_out(await answer, items)
        except BaseException as error:  # around user code: whatever it is, the callers get it and the queue goes on
            for item in items:
                item.fail(_for_callers(error))
        finally:
            for item in items:
                item.end()


def _enter(items: Sequence[Item]) -> None:
    """In the batch's own context: it works for all its items, until the latest of their deadlines."""
    contexts = tuple(item.context for item in items)
    batch_requests.set(contexts)
    first = contexts[0]
    if first is None:
        current_request.set(None)
        return
    deadlines = [context.deadline for context in contexts if context is not None and context.deadline is not None]
    latest = max(deadlines) if len(deadlines) == len(contexts) else None
    # The event of its own: one caller's cancellation must not end what the others wait for.
    current_request.set(dataclasses.replace(first, deadline=latest, cancelled=type(first.cancelled)()))


def _hand_out(results: Any, items: Sequence[Item]) -> None:
    for item, result in zip(items, _checked(results, items), strict=True):
        item.give(result)


def _checked(results: Any, items: Sequence[Item]) -> Any:
    if isinstance(results, str | bytes | dict) or not hasattr(results, "__len__"):
        raise ServeException(
            f"Batched function must return a list with one result for each of its {len(items)} inputs, "
            f"but it returned a value of type {type(results).__name__}."
        )
    if len(results) != len(items):
        raise ServeException(
            "Batched function doesn't preserve batch size. "
            f"The input list has length {len(items)} but the returned list has length {len(results)}."
        )
    return results


async def _hand_out_stream(answer: AsyncIterator[Any], items: Sequence[Item]) -> None:
    try:
        async for results in answer:
            for item, result in zip(items, _checked(results, items), strict=True):
                if result is StopIteration or result is StopAsyncIteration:  # arrays answer == with an array
                    item.end()
                else:
                    item.give(result)
    finally:
        close = getattr(answer, "aclose", None)
        if close is not None:
            await close()


def _for_callers(error: BaseException) -> BaseException:
    if isinstance(error, asyncio.CancelledError):
        return ServeException("the batch was cancelled")
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    # SystemExit, KeyboardInterrupt, GeneratorExit: they would end the caller's loop, or cannot be set on a future.
    wrapped = ServeException(f"the batched function raised {type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped
