"""One caller's place in a batch: a future for one value, or a small buffer for a stream."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from serve_rt.context import RequestContext
from serve_rt.errors import ServeException

MAX_BACKLOG = 10_000
"""Items a streaming caller may leave unread before its stream fails; the batch must not wait for one slow reader."""


class Item:
    """A caller that waits for one value."""

    __slots__ = ("args", "arrived", "context", "future", "gone", "names")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        args: tuple[Any, ...],
        names: tuple[str, ...],
        context: RequestContext | None,
    ) -> None:
        self.args = args
        self.names = names
        """Of the last arguments, given by keyword."""
        self.context = context
        self.arrived = loop.time()
        self.gone = False
        """The caller has left: it takes no place in a batch any more."""
        self.future: asyncio.Future[Any] = loop.create_future()

    def shape(self) -> tuple[int, tuple[str, ...]]:
        """Only calls of one shape can share a batch: each parameter becomes a list."""
        return (len(self.args), self.names)

    def value(self) -> Any:
        """What a batch_size_fn is given for it."""
        return self.args[0] if len(self.args) == 1 else self.args

    def give(self, value: Any) -> None:
        if not self.future.done():
            self.future.set_result(value)

    def fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)

    def end(self) -> None:
        """The batch is over."""
        if not self.future.done():
            self.fail(ServeException("the batch ended without an answer for this request"))


class StreamItem(Item):
    """A caller that reads a stream of values; `future` is replaced each time it waits."""

    __slots__ = ("backlog", "ended", "error", "loop")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        args: tuple[Any, ...],
        names: tuple[str, ...],
        context: RequestContext | None,
    ) -> None:
        super().__init__(loop, args, names, context)
        self.loop = loop
        self.backlog: deque[Any] = deque()
        self.ended = False
        self.error: BaseException | None = None

    def give(self, value: Any) -> None:
        if self.ended:
            return
        if len(self.backlog) >= MAX_BACKLOG:
            self.fail(ServeException(f"a batch's stream was read too slowly: {MAX_BACKLOG} items were left unread"))
            return
        self.backlog.append(value)
        self._wake()

    def fail(self, error: BaseException) -> None:
        if not self.ended:
            self.ended, self.error = True, error
            self._wake()

    def end(self) -> None:
        self.ended = True
        self._wake()

    def _wake(self) -> None:
        if not self.future.done():
            self.future.set_result(None)

    async def next(self) -> Any:
        """*Errors*: StopAsyncIteration at the end; what ended the stream."""
        while not self.backlog:
            if self.ended:
                if self.error is not None:
                    raise self.error
                raise StopAsyncIteration
            if self.future.done():
                self.future = self.loop.create_future()
            await self.future
        return self.backlog.popleft()
