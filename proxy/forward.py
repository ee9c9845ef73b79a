"""HTTP requests to replicas and their answers back. The walk's middle: serve_rt.routing.router is next.

There are two roads to the same answer. `begin` is the usual one: the body is here, so the request is opened at once,
and a whole answer is written by the callback that brings it: no task, no future (measured: a fifth of the proxy's
time). `__call__` is for everything that has to wait: a body that is still coming (taken in to the end, or up to
`body_buffer_bytes`, before a slot is asked for; a longer one is streamed while the slot is held). An answer that comes
in parts goes on in a task on either road. After the first byte of an answer a failure resets the connection: a cut
answer never looks complete.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from serve_rt.errors import ConfigError, ServeException
from serve_rt.observe.request_counts import RequestCounts
from serve_rt.pb import stream_pb2 as pb
from serve_rt.proxy.answers import CLIENT_CLOSED, Answer, body_too_slow, too_large
from serve_rt.proxy.attempt import Answered, Attempt, Receive, Scope, Send
from serve_rt.proxy.body_meter import BodyMeter
from serve_rt.proxy.limits import Limits
from serve_rt.proxy.request_ids import RequestIds
from serve_rt.proxy.routes import Target
from serve_rt.proxy.turning_away import TurningAway
from serve_rt.routing import Exchange, Routers
from serve_rt.transport.data import Data

log = logging.getLogger(__name__)


class ClientGone(Exception):
    """The client closed its connection while its body was being read."""


class Forward:
    def __init__(self, routers: Routers, limits: Limits, timeout_s: float | None) -> None:
        self.requests = 0
        self.left = 0
        """Clients that did not wait for their answer."""
        self._routers, self._limits, self._timeout_s = routers, limits, timeout_s
        self._ids = RequestIds()
        self.counts = RequestCounts()
        """By application, route, method and status."""
        self._turn_away = TurningAway(self._ids, self.counts)

    # --- the road without a task ----------------------------------------------------------------------------------

    def begin(self, target: Target, scope: Scope) -> bool:
        """Open a request whose body is here; its answer writes itself. False: nothing was done, `__call__` must."""
        router = self._routers.router(target.key)
        refusal = router.refusal()
        if refusal is not None and self._turn_away(target, scope, refusal):
            self.requests += 1
            return True
        cycle = scope["serve_rt.cycle"]
        if cycle.more_body:
            return False
        attempt = Attempt(target, scope, cycle.receive, cycle.send)
        try:
            headers = attempt.read_head(self._ids, self._timeout_s)
        except ConfigError:
            return False
        body = b""
        if headers.has_body:
            at_hand = attempt.body_at_hand() if headers.content_length <= self._max_body(target) else None
            if at_hand is None:
                return False
            body = at_hand
        self.requests += 1
        connection = attempt.connection
        assert connection is not None
        try:
            exchange = router.admit(attempt.outgoing(body, True, attempt.deadline()))
        except ServeException as error:
            self._refuse(attempt, error)
            return True
        attempt.exchange = exchange
        connection.on_gone = partial(self._left, attempt)
        exchange.when_answered(partial(self._answered, attempt, exchange))
        return True

    def _answered(self, attempt: Attempt, exchange: Exchange) -> None:
        """The answer has begun, or there will be none. Called by the stream: nothing may be raised into it."""
        connection = attempt.connection
        assert connection is not None
        connection.on_gone = None  # before the write: a pipelined request may begin in it
        try:
            part = exchange.take()
            if attempt.write_whole(part):
                self._count(attempt)
            else:
                self._in_a_task(attempt, partial(self._relay, attempt, exchange, part))
        except ServeException as error:
            self._refuse(attempt, error)
        except Exception:  # a bug of ours, or a header no client may see: it must not end everybody's stream
            log.exception("an answer could not be written", extra={**attempt.fields(), "action": "answer_failed"})
            self._refuse(attempt, ServeException("the answer could not be written"))

    def _refuse(self, attempt: Attempt, error: ServeException) -> None:
        answer = attempt.failed(error, self._turn_away.lines)
        if answer is not None and not attempt.answer_at_once(answer):
            self._in_a_task(attempt, partial(attempt.answer, answer))
        else:
            self._count(attempt)

    def _count(self, attempt: Attempt) -> None:
        """The attempt is over, as told on one or several roads; a broken answer counts as what it began as."""
        if attempt.counted:
            return
        attempt.counted = True
        target = attempt.target
        status = str(attempt.status or CLIENT_CLOSED)
        labels = (target.app.name, target.prefix, attempt.method, status)
        self.counts.add(labels, time.monotonic() - attempt.began_s)

    def _left(self, attempt: Attempt) -> None:
        self.left += 1
        attempt.status = CLIENT_CLOSED
        self._count(attempt)
        attempt.cancel("the client left")
        log.info("client left", extra={**attempt.fields(), "status": CLIENT_CLOSED})

    def _in_a_task(self, attempt: Attempt, work: Callable[[], Awaitable[None]]) -> None:
        """The rest of an attempt, under the care of uvicorn's own runner."""

        async def rest(scope: Scope, receive: Receive, send: Send) -> None:
            await self._guarded(attempt, work)

        connection = attempt.connection
        assert connection is not None
        connection.on_gone = partial(self._left, attempt)  # until the task has begun
        connection.run(attempt.cycle, rest)

    async def _relay(self, attempt: Attempt, exchange: Exchange, first: pb.Head | Data | None) -> None:
        await attempt.relay(exchange, first)

    # --- the road with one ----------------------------------------------------------------------------------------

    async def __call__(self, target: Target, scope: Scope, receive: Receive, send: Send) -> None:
        self.requests += 1
        attempt = Attempt(target, scope, receive, send)
        await self._guarded(attempt, partial(self._run, attempt))

    async def _guarded(self, attempt: Attempt, work: Callable[[], Awaitable[None]]) -> None:
        """Run what may have to wait: a client that leaves cancels it, wherever it waits."""
        connection = attempt.connection
        leave: Callable[[], object] | None = None
        if connection is not None:
            task = asyncio.current_task()
            assert task is not None
            connection.on_gone = leave = task.cancel
        try:
            await work()
        except asyncio.CancelledError:
            # The client has left (or the proxy ends, and then there is nobody to answer either).
            self._left(attempt)
        except ClientGone:
            self._left(attempt)
        except ServeException as error:
            answer = attempt.failed(error, self._turn_away.lines)
            if answer is not None:
                await attempt.answer(answer)
        finally:
            if connection is not None and connection.on_gone is leave:  # else a pipelined request has begun meanwhile
                connection.on_gone = None
            self._count(attempt)

    async def _run(self, attempt: Attempt) -> None:
        target = attempt.target
        app = target.app
        try:
            headers = attempt.read_head(self._ids, self._timeout_s)
        except ConfigError as error:
            await attempt.answer(Answer(400, str(error)))
            return
        deadline = attempt.deadline()
        body, ended = b"", True
        if headers.has_body:
            max_bytes = self._max_body(target)
            if headers.content_length > max_bytes:
                await attempt.answer(too_large(max_bytes), close=True)
                return
            taken = await self._take_body(attempt, app.body_buffer_bytes, max_bytes, deadline)
            if taken is None:
                return
            body, ended = taken
        exchange = await self._routers.router(target.key).send(attempt.outgoing(body, ended, deadline))
        attempt.exchange = exchange
        if ended:
            await attempt.relay(exchange, await exchange.read())
        else:
            await self._relay_both_ways(attempt, exchange, len(body), self._max_body(target))

    # --- bodies ---------------------------------------------------------------------------------------------------

    def _max_body(self, target: Target) -> int:
        return self._limits.body_bytes or target.app.max_body_bytes

    def _meter(self) -> BodyMeter:
        return BodyMeter(self._limits.body_grace_s, self._limits.body_bytes_per_s)

    async def _piece(self, attempt: Attempt, meter: BodyMeter, deadline: float | None) -> dict[str, Any] | None:
        """The next message of the body; None when it comes too slowly. Any: ASGI."""
        began = time.monotonic()
        message = await attempt.receive_within(meter.left_s, deadline)
        if message is not None:
            meter.took(time.monotonic() - began, len(message.get("body", b"")))
        return message

    async def _take_body(
        self, attempt: Attempt, buffer_bytes: int, max_bytes: int, deadline: float | None
    ) -> tuple[bytes, bool] | None:
        """The body so far and whether it is all; None when the request was answered."""
        pieces: list[bytes] = []
        size = 0
        meter = self._meter()
        message = await self._piece(attempt, meter, deadline)
        while True:
            if message is None:
                await attempt.answer(body_too_slow(self._limits.body_bytes_per_s), close=True)
                return None
            if message["type"] == "http.disconnect":
                raise ClientGone
            pieces.append(message.get("body", b""))
            size += len(pieces[-1])
            if size > max_bytes:
                await attempt.answer(too_large(max_bytes), close=True)
                return None
            if not message.get("more_body", False):
                return (pieces[0] if len(pieces) == 1 else b"".join(pieces)), True
            if size >= buffer_bytes:
                return b"".join(pieces), False
            message = await self._piece(attempt, meter, deadline)

    async def _relay_both_ways(self, attempt: Attempt, exchange: Exchange, size: int, max_bytes: int) -> None:
        """The answer may begin, and end, before the body does."""
        upload = asyncio.create_task(self._upload(attempt, exchange, size, max_bytes), name="request body")
        try:
            await attempt.relay(exchange, await exchange.read())
        finally:
            upload.cancel()
            await asyncio.gather(upload, return_exceptions=True)

    async def _upload(self, attempt: Attempt, exchange: Exchange, size: int, max_bytes: int) -> None:
        meter = self._meter()
        while True:
            await exchange.send_ready()
            message = await self._piece(attempt, meter, None)
            if message is None:
                exchange.fail(Answered(body_too_slow(self._limits.body_bytes_per_s)))
                return
            if message["type"] == "http.disconnect":
                return  # on_gone, or the end of the answer, says the rest
            payload = message.get("body", b"")
            size += len(payload)
            if size > max_bytes:
                exchange.fail(Answered(too_large(max_bytes)))
                return
            more = message.get("more_body", False)
            exchange.send(payload, end=not more)
            if not more:
                return
