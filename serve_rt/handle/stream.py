"""What `handle.options(stream=True).remote()` gives back: the items of a generator as they come.

Items are read ahead by at most READ_AHEAD_ITEMS; then the reader rests until the consumer has taken half of them, and
the missing credit slows the generator down in its replica. Dropping the response cancels the generator.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from serve_rt.errors import RequestCancelledError, ServeException
from serve_rt.handle.buffers import Received, gather
from serve_rt.handle.call import Call
from serve_rt.handle.crossing import wake
from serve_rt.handle.response import in_event_loop, reraise
from serve_rt.handle.serialization import load_value

if TYPE_CHECKING:
    from serve_rt.routing import Exchange

T = TypeVar("T")
READ_AHEAD_ITEMS = 64


class ItemBuffer:
    """Between the loop that reads and the thread or loop that consumes. The lock is held for a few steps only."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._items: deque[Received] = deque()
        self._ended = False
        self._error: BaseException | None = None
        self._wake_consumer: Callable[[], None] | None = None
        self._wake_reader: Callable[[], None] | None = None

    # the reader's side, on the runtime's loop

    async def receive(self, exchange: Exchange) -> None:
        from serve_rt.pb import stream_pb2

        item: bytes | bytearray = b""
        while (part := await exchange.read()) is not None:
            if isinstance(part, stream_pb2.Head) or (not part.payload and part.end):
                continue
            item = gather(item, part.payload)
            if part.code == 0:  # 1: more of this item follows
                self._put(item)
                item = b""
            await self._room()
        self._end(None)

    def receive_ready(self, exchange: Exchange) -> bool:
        return False  # items come one by one, at the pace of whoever consumes them

    def fail(self, error: BaseException) -> None:
        self._end(error)

    def _put(self, item: Received) -> None:
        with self._lock:
            self._items.append(item)
            ready, self._wake_consumer = self._wake_consumer, None
        if ready is not None:
            ready()

    def _end(self, error: BaseException | None) -> None:
        with self._lock:
            if not self._ended:
                self._ended, self._error = True, error
            ready, self._wake_consumer = self._wake_consumer, None
        if ready is not None:
            ready()

    async def _room(self) -> None:
        with self._lock:
            if len(self._items) < READ_AHEAD_ITEMS or self._ended:
                return
            loop = asyncio.get_running_loop()
            room: asyncio.Future[None] = loop.create_future()
            self._wake_reader = lambda: wake(loop, room)
        await room

    # the consumer's side, any thread or loop

    def take(self) -> Received | None:
        """The next item, or None when there is none now.

        *Errors*: StopIteration at the end of the stream, or what ended it.
        """
        with self._lock:
            item = self._items.popleft() if self._items else None
            room = None
            if self._wake_reader is not None and len(self._items) <= READ_AHEAD_ITEMS // 2:
                room, self._wake_reader = self._wake_reader, None
            ended, error = self._ended, self._error
        if room is not None:
            room()
        if item is None and ended:
            if error is not None:
                reraise(error)
            raise StopIteration
        return item

    def when_ready(self, ready: Callable[[], None]) -> None:
        """Call `ready` once when there is something to take, at once when there is already."""
        with self._lock:
            if not self._items and not self._ended:
                self._wake_consumer = ready
                return
        ready()


class DeploymentResponseGenerator(Generic[T]):
    """Iterate with `for` outside of event loops, with `async for` inside."""

    def __init__(self, call: Call, buffer: ItemBuffer) -> None:
        self._call = call
        self._buffer = buffer
        self._was_cancelled = False
        self._over = False

    @property
    def request_id(self) -> str:
        return self._call.request_id

    def __aiter__(self) -> DeploymentResponseGenerator[T]:
        return self

    async def __anext__(self) -> T:
        loop = asyncio.get_running_loop()
        while True:
            try:
                item = self._buffer.take()
            except StopIteration:
                self._over = True
                raise StopAsyncIteration from None
            if item is not None:
                return self._open(item)
            ready: asyncio.Future[None] = loop.create_future()
            self._buffer.when_ready(partial(wake, loop, ready))
            await ready

    def __iter__(self) -> DeploymentResponseGenerator[T]:
        return self

    def __next__(self) -> T:
        if in_event_loop():
            raise RuntimeError(
                "Sync methods should not be called from within an `asyncio` event loop. Use `async for` or "
                "`await response.__anext__()` instead."
            )
        while True:
            try:
                item = self._buffer.take()
            except StopIteration:
                self._over = True
                raise
            if item is not None:
                return self._open(item)
            ready = threading.Event()
            self._buffer.when_ready(ready.set)
            ready.wait()

    def cancel(self) -> None:
        """The user's generator sees CancelledError; items already here can still be taken."""
        if not self._over:
            self._was_cancelled = True
            self._call.cancel()
            self._buffer.fail(RequestCancelledError(self._call.request_id))

    def cancelled(self) -> bool:
        return self._was_cancelled

    async def aclose(self) -> None:
        self.cancel()

    def close(self) -> None:
        self.cancel()

    def _open(self, item: Received) -> T:
        value: T = load_value(item)
        return value

    def __await__(self) -> NoReturn:
        raise TypeError(
            "`DeploymentResponseGenerator` cannot be awaited directly. Use `async for` or `await response.__anext__()`."
        )

    def result(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        raise TypeError("`DeploymentResponseGenerator` doesn't support `.result()`. Use a `for` loop instead.")

    def raw_answer(self) -> NoReturn:
        raise RuntimeError(
            "Streaming deployment handle results cannot be passed to downstream handle calls. If you have a use case "
            "requiring this feature, collect the items first."
        )

    def __reduce__(self) -> NoReturn:
        raise ServeException("`DeploymentResponseGenerator` is not serializable.")

    def __del__(self) -> None:
        if not self._over and not self._was_cancelled:
            self._call.cancel()
