"""Runs the user's handler for one HTTP request and sends what it returns.

Two ways in: `answer` is a task of the user loop (async handlers, ASGI applications), `answer_in_thread` runs in a
thread of the pool (sync handlers, sync generators). A sync handler that returns something which must run on a loop (a
StreamingResponse, a coroutine) sends it over to the user loop and goes.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

from serve_rt.context import current_request
from serve_rt.replica import asgi
from serve_rt.replica.call import Call, Failure
from serve_rt.replica.failures import sentence, users_traceback
from serve_rt.replica.http_answer import PLAIN_TYPES, STREAM_HEADERS, Answer, answer_for, answer_for_error, chunk_bytes
from serve_rt.replica.http_request import Receive, http_scope, is_websocket, starlette_request, websocket_scope
from serve_rt.replica.streaming import each_item, end_async_generator
from serve_rt.replica.user_code import Plan, Shape

log = logging.getLogger(__name__)


class HttpAnswers:
    """`start_task(call, coroutine)` makes a task of the user loop for a call, from any thread; `in_thread(call,
    work)` gives work to the pool; `state` is what an ASGI application's lifespan left for its requests."""

    def __init__(
        self,
        start_task: Callable[[Call, Any], None],  # Any: a coroutine that returns nothing
        in_thread: Callable[[Call, Callable[[], None]], None],
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self._start_task = start_task
        self._in_thread = in_thread
        self._state = state

    # --- on the user loop -----------------------------------------------------------------------------------------

    async def answer(self, call: Call, plan: Plan) -> None:
        call.began = True
        current_request.set(call.context)
        if call.cancelled:
            call.leave()
            return
        try:
            if plan.shape is Shape.ASGI:
                await self._run_app(call, plan)
                return
            result = plan.function(starlette_request(call)) if plan.takes_argument else plan.function()
            if plan.shape is Shape.ASYNC:
                result = await result
            # Most results are plain values: they are looked at before what must be told apart by inspection.
            answer = answer_for(result) if type(result) in PLAIN_TYPES else None
            if answer is not None:
                call.reply(answer.status, answer.headers, answer.body)
            else:
                await self._send(call, result)
        except GeneratorExit:  # the loop is gone
            raise
        except BaseException as error:  # user code may raise anything; the caller is told, the process lives
            _failed(call, error)

    async def _run_app(self, call: Call, plan: Plan) -> None:
        if is_websocket(call):
            await asgi.run_websocket(plan.function, websocket_scope(call, self._state), call)
        else:
            await asgi.run_http(plan.function, http_scope(call, self._state), Receive(call), call)

    async def _send(self, call: Call, result: Any) -> None:
        """Send whatever a handler returned; for its rarer kinds see below."""
        if inspect.isasyncgen(result):
            await self._stream(call, result)
        elif inspect.isgenerator(result):
            generator = result
            self._in_thread(call, lambda: self._stream_in_thread(call, generator))
        elif inspect.isawaitable(result):
            await self._send(call, await result)
        else:
            answer = answer_for(result)
            if answer is not None:
                call.reply(answer.status, answer.headers, answer.body)
            else:
                await asgi.run_http(result, http_scope(call), Receive(call), call)

    async def _stream(self, call: Call, items: AsyncIterator[Any]) -> None:
        call.send_head(200, STREAM_HEADERS)
        try:
            async for item in items:
                await call.send_data(chunk_bytes(item))
        finally:
            await end_async_generator(items, cancelled=call.cancelled)
        call.send_end()
        call.leave()

    async def _send_from_thread(self, call: Call, result: Any) -> None:
        """As `answer`, for a result that a sync handler made and a loop must run."""
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
            _failed(call, error)

    # --- in a thread of the pool ----------------------------------------------------------------------------------

    def answer_in_thread(self, call: Call, plan: Plan) -> None:
        if call.cancelled:
            call.leave()
            return
        try:
            result = plan.function(starlette_request(call)) if plan.takes_argument else plan.function()
            if inspect.isgenerator(result):
                self._stream_in_thread(call, result)
                return
            answer = None if _needs_loop(result) else answer_for(result)
        except BaseException as error:  # as in answer()
            _failed(call, error)
            return
        if answer is not None:
            call.reply(answer.status, answer.headers, answer.body)
        else:
            self._start_task(call, self._send_from_thread(call, result))

    def _stream_in_thread(self, call: Call, items: Iterator[Any]) -> None:
        try:
            call.send_head(200, STREAM_HEADERS)
            for item in each_item(call, items):
                call.send_data_blocking(chunk_bytes(item))
            call.send_end()
            call.leave()
        except BaseException as error:  # as in answer()
            _failed(call, error)


def _needs_loop(result: Any) -> bool:
    return inspect.isasyncgen(result) or inspect.isawaitable(result)


def _failed(call: Call, error: BaseException) -> None:
    """Tell the caller and the log. User code that cancels itself has failed like any other."""
    if call.cancelled:  # nobody listens any more, and what a cancellation makes of user code is no news
        call.leave()
        return
    answer: Answer | None = None
    if isinstance(error, Exception):
        answer = answer_for_error(error)
    if answer is not None:
        call.reply(answer.status, answer.headers, answer.body)
        return
    text = users_traceback(error)
    log.error(
        "the handler failed: %s\n%s",
        sentence(error),
        text,
        extra={"action": "request_failed", "request_id": call.context.request_id},
    )
    call.fail(Failure("UserError", sentence(error), traceback=text))
