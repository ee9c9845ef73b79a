"""Takes requests from the transport and puts each where it runs: the user loop or a thread of the pool.

`start` is called by the stream's reader on the main loop, so it only decides; everything that costs (scope, Request,
unpickling, the handler) happens on the other side.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextvars import Context
from typing import Any

from google.protobuf.message import DecodeError

from serve_rt.aio import TaskOwner
from serve_rt.context import RequestContext, current_request
from serve_rt.errors import DeadlineExceededError, Outcome, ServeException
from serve_rt.handle.buffers import gather
from serve_rt.model.ids import DeploymentKey
from serve_rt.pb import stream_pb2 as pb
from serve_rt.replica.call import Call, Failure, Roads
from serve_rt.replica.call_http import HttpAnswers
from serve_rt.replica.call_method import MethodAnswers, failure_of
from serve_rt.replica.cancel_flag import CancelFlag
from serve_rt.replica.thread_pool import ThreadPool
from serve_rt.replica.user_code import Plan, UserCode
from serve_rt.replica.user_loop import UserLoop
from serve_rt.transport.server import ServerRequest

log = logging.getLogger(__name__)


class Dispatch:
    """The transport's RequestHandler. `install` gives it the user's code; until then nothing may arrive.

    *Resources*: its background work belongs to `roads.tasks`.
    """

    def __init__(self, key: DeploymentKey, user_loop: UserLoop, pool: ThreadPool, roads: Roads) -> None:
        self._key = key
        self._user_loop = user_loop
        self._pool = pool
        self._roads = roads
        self._tasks: TaskOwner = roads.tasks
        self._code: UserCode | None = None
        self._calls: set[Call] = set()
        self._http = HttpAnswers(self._start_task, self._in_thread)
        self._methods = MethodAnswers(self._start_task, self._in_thread)

    def install(self, code: UserCode, state: dict[str, Any] | None) -> None:
        self._code = code
        self._http = HttpAnswers(self._start_task, self._in_thread, state)

    @property
    def ongoing(self) -> int:
        return len(self._calls)

    @property
    def waiting(self) -> int:
        """Of these, sync handlers that wait for a thread."""
        return self._pool.waiting

    @property
    def abandoned(self) -> bool:
        """What runs here, if anything, runs for nobody: every caller has gone or cancelled."""
        return all(call.cancelled for call in self._calls)

    def stop_all(self) -> None:
        """Cancel what still runs; each call leaves when its user code does."""
        for call in tuple(self._calls):
            call.stop()

    # --- main loop ------------------------------------------------------------------------------------------------

    def start(self, request: ServerRequest) -> None:
        if request.deadline is not None and request.deadline <= time.monotonic():
            message = "the deadline had passed before the request reached the replica"
            request.fail(Outcome.NOT_STARTED, DeadlineExceededError.__name__, message)
            request.finished()
            return
        call = self._make_call(request)
        self._calls.add(call)
        if call.is_http:
            self._start_http(call)
        else:
            self._start_method(call)

    def _make_call(self, request: ServerRequest) -> Call:
        opened = request.open
        context = RequestContext(
            opened.request_id,
            self._key.app,
            self._key.deployment,
            opened.route,
            opened.multiplexed_model_id,
            opened.session_id,
            request.deadline,
            CancelFlag(),
        )
        if opened.HasField("http"):
            access = (opened.http.method or "WEBSOCKET", opened.route or opened.http.path)
        else:
            access = ("CALL", opened.call.method or "__call__")
        return Call(request, context, self._roads, access, self._calls.discard)

    def _start_http(self, call: Call) -> None:
        plan = self._code.http if self._code is not None else None
        if plan is None:
            call.fail(Failure("UserError", f"{self._key} has no __call__ and so cannot answer HTTP requests"))
        else:
            self._go(call, plan, self._http)

    def _start_method(self, call: Call) -> None:
        if call.body_complete:
            self._go_method(call)
            return
        if call.open.call.reserve:
            call.request.accept()
        gathering = self._tasks.start(self._gather_arguments(call), name="gather arguments")
        # In place of an `except CancelledError` inside: one that is cancelled before its first step has no inside.
        gathering.add_done_callback(lambda task: None if _succeeded(task) else call.leave())
        call.own_fetch(gathering)

    def _go_method(self, call: Call) -> None:
        assert self._code is not None
        try:
            plan = self._code.method(call.open.call.method or "__call__")
        except ServeException as error:
            call.fail(failure_of(error))
        else:
            self._go(call, plan, self._methods)

    async def _gather_arguments(self, call: Call) -> None:
        """Arguments too large for the Open part come in pieces; the transport bounds how many are on their way.

        Where a slot was reserved they come when its holder dispatches a call, if it does, behind what is to be called.
        """
        body: bytes | bytearray = b""
        try:
            while (part := await call.request.receive()) is not None:
                if part.kind == pb.DATA_KIND_CALL:
                    call.rename(pb.MethodCall.FromString(part.payload))
                    continue
                body = gather(body, part.payload)
                if part.end:
                    break
        except DecodeError as error:
            call.fail(Failure("ServeException", f"what a reserved slot is to be used for cannot be read: {error}"))
            return
        call.body = body
        self._go_method(call)

    def _go(self, call: Call, plan: Plan, answers: HttpAnswers | MethodAnswers) -> None:
        if plan.in_thread:
            self._in_thread(call, lambda: answers.answer_in_thread(call, plan))
        else:
            self._user_loop.posts.post(self._begin, call, answers.answer, plan)

    # --- any thread -----------------------------------------------------------------------------------------------

    def _in_thread(self, call: Call, work: Callable[[], None]) -> None:
        context = Context()
        context.run(current_request.set, call.context)
        self._pool.submit(lambda: context.run(work))

    def _start_task(self, call: Call, coroutine: Any) -> None:
        self._user_loop.posts.post(self._keep_task, call, coroutine)

    # --- user loop ------------------------------------------------------------------------------------------------

    def _begin(self, call: Call, answer: Callable[[Call, Plan], Any], plan: Plan) -> None:
        call.task = asyncio.get_running_loop().create_task(answer(call, plan), name="request")

    def _keep_task(self, call: Call, coroutine: Any) -> None:
        call.task = asyncio.get_running_loop().create_task(coroutine, name="request")

    def __repr__(self) -> str:
        return f"<Dispatch {self._key} [{len(self._calls)} ongoing]>"


def _succeeded(task: asyncio.Task[None]) -> bool:
    return not task.cancelled() and task.exception() is None
