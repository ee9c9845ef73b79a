"""Runs one method call from a handle: arguments in, a value, items or an exception out, all pickled.

As in call_http, `answer` is a task of the user loop and `answer_in_thread` runs in the pool.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from serve_rt.context import current_request
from serve_rt.handle import serialization
from serve_rt.pb import stream_pb2 as pb
from serve_rt.replica.call import Call, Failure
from serve_rt.replica.failures import cut_own_frames, sentence, users_traceback
from serve_rt.replica.streaming import each_item, end_async_generator
from serve_rt.replica.user_code import Plan, Shape

log = logging.getLogger(__name__)


class MethodAnswers:
    """See HttpAnswers for the two roads it is given."""

    def __init__(
        self,
        start_task: Callable[[Call, Any], None],  # Any: a coroutine that returns nothing
        in_thread: Callable[[Call, Callable[[], None]], None],
    ) -> None:
        self._start_task = start_task
        self._in_thread = in_thread

    # --- on the user loop -----------------------------------------------------------------------------------------

    async def answer(self, call: Call, plan: Plan) -> None:
        call.began = True
        current_request.set(call.context)
        if call.cancelled:
            call.leave()
            return
        try:
            args, kwargs = _arguments(call)
            result = plan.function(*args, **kwargs)
            if plan.shape is Shape.ASYNC:
                result = await result
            await self._send(call, result)
        except GeneratorExit:  # the loop is gone
            raise
        except BaseException as error:  # user code may raise anything; the caller gets it, the process lives
            failed(call, error)

    async def _send(self, call: Call, result: Any) -> None:
        if inspect.isawaitable(result):
            result = await result
        _check_stream(call, result)
        if not call.open.call.stream:
            call.reply_value(serialization.dump_answer(result, call.open.call.method))
        elif inspect.isasyncgen(result):
            await self._stream(call, result)
        else:
            generator = result
            self._in_thread(call, lambda: self._stream_in_thread(call, generator))

    async def _stream(self, call: Call, items: AsyncIterator[Any]) -> None:
        try:
            async for item in items:
                await call.send_data(serialization.dump_answer(item, call.open.call.method), pb.DATA_KIND_ITEM)
        finally:
            await end_async_generator(items, cancelled=call.cancelled)
        call.send_end()
        call.leave()

    async def _send_from_thread(self, call: Call, result: Any) -> None:
        call.began = True
        current_request.set(call.context)
        if call.cancelled:
            call.leave()
            return
        try:
            await self._send(call, result)
        except GeneratorExit:
            raise
        except BaseException as error:  # as in answer()
            failed(call, error)

    # --- in a thread of the pool ----------------------------------------------------------------------------------

    def answer_in_thread(self, call: Call, plan: Plan) -> None:
        if call.cancelled:
            call.leave()
            return
        try:
            args, kwargs = _arguments(call)
            result = plan.function(*args, **kwargs)
            if inspect.isawaitable(result) or inspect.isasyncgen(result):
                self._start_task(call, self._send_from_thread(call, result))
                return
            _check_stream(call, result)
            if call.open.call.stream:
                self._stream_in_thread(call, result)
            else:
                call.reply_value(serialization.dump_answer(result, call.open.call.method))
        except BaseException as error:  # as in answer()
            failed(call, error)

    def _stream_in_thread(self, call: Call, items: Iterator[Any]) -> None:
        try:
            for item in each_item(call, items):
                call.send_data_blocking(serialization.dump_answer(item, call.open.call.method), pb.DATA_KIND_ITEM)
            call.send_end()
            call.leave()
        except BaseException as error:  # as in answer()
            failed(call, error)


def _arguments(call: Call) -> tuple[tuple[Any, ...], dict[str, Any]]:
    body, call.body = call.body, b""  # arrays keep it alive; what was copied out of it is not held twice
    return serialization.loads(body)


def _check_stream(call: Call, result: Any) -> None:
    name = call.open.call.method or "__call__"
    is_generator = inspect.isgenerator(result) or inspect.isasyncgen(result)
    if is_generator and not call.open.call.stream:
        raise TypeError(
            f"Method '{name}' returned a generator. You must use `handle.options(stream=True)` to call generators on "
            "a deployment."
        )
    if call.open.call.stream and not is_generator:
        raise TypeError(f"Called method '{name}' with 'handle.options(stream=True)' but it did not return a generator.")


def failed(call: Call, error: BaseException) -> None:
    """Send the user's exception to the caller and write it to the log; user code has ended.

    User code that cancels itself has failed like any other.
    """
    if call.cancelled:  # nobody listens any more, and what a cancellation makes of user code is no news
        call.leave()
        return
    log.error(
        "method %s failed: %s\n%s",
        call.open.call.method or "__call__",
        sentence(error),
        users_traceback(error),
        extra={"action": "request_failed", "request_id": call.context.request_id},
    )
    call.fail(failure_of(error))


def failure_of(error: BaseException) -> Failure:
    dumped = serialization.dump_error(cut_own_frames(error))
    return Failure(dumped.kind, dumped.message, dumped.pickled, dumped.traceback)
