"""What `handle.remote()` gives back: the answer to come.

It can be awaited from any event loop and any number of times, waited for with `result()` outside of loops, cancelled,
and passed as an argument to another call (then its bytes go on unopened).
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from serve_rt.context import current_request
from serve_rt.errors import RequestCancelledError, ServeException, UserCodeError
from serve_rt.handle.buffers import Received, gather
from serve_rt.handle.call import Call
from serve_rt.handle.crossing import settled
from serve_rt.handle.serialization import load_error, load_value

if TYPE_CHECKING:
    from serve_rt.pb import stream_pb2 as pb
    from serve_rt.routing import Exchange
    from serve_rt.transport.data import Data

T = TypeVar("T")
_EMPTY = object()


class ValueSink:
    """Collects the one value of a call; a value larger than a piece comes in several."""

    def __init__(self) -> None:
        self.answer: concurrent.futures.Future[Received] = concurrent.futures.Future()
        self._data: bytes | bytearray = b""

    async def receive(self, exchange: Exchange) -> None:
        while (part := await exchange.read()) is not None:
            self._gather(part)
        self._settle(self._data)

    def receive_ready(self, exchange: Exchange) -> bool:
        while (part := exchange.take()) is not None:
            self._gather(part)
            if part.end:
                self._settle(self._data)
                return True
        return False

    def _gather(self, part: pb.Head | Data) -> None:
        piece = part.body if hasattr(part, "body") else part.payload  # a Head may hold a whole small answer
        self._data = gather(self._data, piece)

    def _settle(self, data: Received) -> None:
        self._data = b""
        if not self.answer.done():
            self.answer.set_result(data)

    def fail(self, error: BaseException) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class DeploymentResponse(Generic[T]):
    """The answer of one call.

    *Errors*: what user code raised comes back as its own type with the remote traceback as cause; the runtime's own
    failures are the errors of `serve_rt.exceptions`.
    """

    def __init__(self, call: Call, sink: ValueSink) -> None:
        self._call = call
        self._sink = sink
        self._value: Any = _EMPTY
        self._was_cancelled = False

    @property
    def request_id(self) -> str:
        return self._call.request_id

    @property
    def by_reference(self) -> bool:
        return True

    def raw_answer(self) -> concurrent.futures.Future[Received]:
        """The pickled answer; what makes a response usable as an argument (serve_rt.handle.call)."""
        return self._sink.answer

    def __await__(self) -> Generator[Any, None, T]:
        if not self._sink.answer.done():
            yield from self._wait().__await__()
        return self._open()

    async def _wait(self) -> None:
        try:
            await settled(self._sink.answer)
        except asyncio.CancelledError:
            parent = current_request.get()
            if parent is not None and parent.cancelled.is_set():
                self.cancel()  # the request we work for is over; a mere wait_for() leaves the call alone
            raise

    def result(self, *, timeout_s: float | None = None, _skip_asyncio_check: bool = False) -> T:
        """Wait in this thread.

        *Errors*: builtin TimeoutError after `timeout_s` (the call goes on); RuntimeError inside an event loop.
        """
        if not _skip_asyncio_check and in_event_loop():
            raise RuntimeError(
                "Sync methods should not be called from within an `asyncio` event loop. Use `await response` instead."
            )
        done, _ = concurrent.futures.wait((self._sink.answer,), timeout_s)
        if not done:
            raise TimeoutError(f"the response did not arrive within {timeout_s:g} s; the request goes on")
        return self._open()

    def cancel(self) -> None:
        """Best effort: a queued call is dropped; user code that runs sees CancelledError."""
        if not self._sink.answer.done():
            self._was_cancelled = True
            self._call.cancel()
            self._sink.fail(RequestCancelledError(self._call.request_id))

    def cancelled(self) -> bool:
        return self._was_cancelled

    def _open(self) -> T:
        if self._value is _EMPTY:
            error = self._sink.answer.exception()
            if error is not None:
                reraise(error)
            self._value = load_value(self._sink.answer.result())
        value: T = self._value
        return value

    def _to_object_ref(self, **_options: Any) -> NoReturn:
        """*Errors*: ServeException always: there are no object refs."""
        raise ServeException(
            "There are no object refs: await the response (or use result()), or pass it on to another handle call."
        )

    _to_object_ref_sync = _to_object_ref

    def __reduce__(self) -> NoReturn:
        raise ServeException(
            "`DeploymentResponse` is not serializable. Pass it as a top-level argument of another handle call, or pass "
            "its value (`await response`)."
        )

    def __repr__(self) -> str:
        state = "done" if self._sink.answer.done() else "waiting"
        return f"<DeploymentResponse {self._call.key} [{state}] request_id={self.request_id}>"


def fresh_error(error: BaseException) -> BaseException:
    """`error` as the caller should see it; what user code raised is made anew each time."""
    if isinstance(error, UserCodeError):
        return load_error(error.pickled, error.message, error.traceback)
    return error.with_traceback(None)  # tracebacks do not pile up


def reraise(error: BaseException) -> NoReturn:
    raise fresh_error(error)


def in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
