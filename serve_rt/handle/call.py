"""One call on its way: arguments ready → sent → parts of the answer read → settled.

Made by a handle in any thread; everything below `start` happens on the runtime's loop. What comes out is handed to a
*sink*: a future with the answer's bytes for one value, a buffer for a stream. Opening the bytes is left to the caller's
thread, so a large answer does not hold up other calls.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from serve_rt.context import RequestContext, current_request
from serve_rt.errors import DeadlineExceededError, DeploymentUnavailableError, QueueTimeoutError, RequestCancelledError
from serve_rt.handle.buffers import Received
from serve_rt.handle.children import adopt
from serve_rt.handle.crossing import settled
from serve_rt.handle.runtime import HandleRuntime, RouteSource
from serve_rt.handle.serialization import Forwarded, dumps
from serve_rt.model.ids import DeploymentKey
from serve_rt.model.routes import CALL_QUEUE_TIMEOUT_S, DeploymentRoute, RouteTable

if TYPE_CHECKING:
    from serve_rt.routing import Exchange, Outgoing

UNKNOWN_DEPLOYMENT_TIMEOUT_S = 3.0
"""How long a deployment may be missing from the routes: it can have been deployed a moment ago."""
GONE_DEPLOYMENT_TIMEOUT_S = 0.3
"""The same for one that was there once: it was deleted, unless somebody just deployed it again."""


@dataclass(frozen=True, slots=True)
class CallOptions:
    method_name: str = "__call__"
    multiplexed_model_id: str = ""
    session_id: str = ""
    stream: bool = False


class Sink(Protocol):
    """Where the answer goes. Called on the loop."""

    async def receive(self, exchange: Exchange) -> None:
        """Read the exchange to its end."""
        ...

    def receive_ready(self, exchange: Exchange) -> bool:
        """Take what has arrived; whether that was all. If not, `receive` goes on from there."""
        ...

    def fail(self, error: BaseException) -> None: ...


class Call:
    def __init__(
        self,
        runtime: HandleRuntime,
        key: DeploymentKey,
        options: CallOptions,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        sink: Sink,
    ) -> None:
        parent = current_request.get()
        self.key = key
        self.request_id = request_id_of(parent)
        self._runtime = runtime
        self._options = options
        self._sink = sink
        self._parent = parent
        self._pending = _answers(args, kwargs)
        self._args, self._kwargs = args, kwargs
        # Packed here and now: what the caller does to its objects later must not change the call.
        self._body = b"" if self._pending else dumps(args, kwargs)
        self._task: asyncio.Task[None] | None = None
        self._exchange: Exchange | None = None
        self._cancelled = False

    def start(self) -> None:
        if self._parent is not None:
            adopt(self._parent, self)
        self._runtime.post(self._begin)

    def cancel(self) -> None:
        """Best effort, from any thread: leaves the queue, or tells the replica."""
        self._cancelled = True
        try:
            self._runtime.post(self._stop)
        except RuntimeError:  # the loop is closed, and the call with it
            pass

    def _begin(self) -> None:
        if self._cancelled:  # cancel() came before the loop saw the call
            self._sink.fail(RequestCancelledError(self.request_id))
            return
        calls = self._runtime.calls
        calls[self.key] = calls.get(self.key, 0) + 1
        try:
            self._exchange = self._open_at_once()
        except Exception as error:  # whatever it is, the caller gets it
            self._sink.fail(error)
            return
        if self._exchange is None:
            self._task = asyncio.ensure_future(self._drive())
            self._task.add_done_callback(self._driven)
        else:
            self._body = b""
            self._exchange.when_answered(self._answered)

    def _open_at_once(self) -> Exchange | None:
        """The usual call has its arguments and finds a free slot: it is opened, and answered by a callback, without a
        task of its own. None: something must be waited for, or refused, and nothing was done."""
        routes = None if self._pending else self._runtime.routes_at_hand()
        route = _route_in(routes.table, self.key) if routes is not None else None
        if routes is None or route is None:
            return None
        return routes.router(self.key).send_at_once(self._outgoing(route))

    def _answered(self) -> None:
        """Called by the stream: nothing may be raised into it."""
        exchange = self._exchange
        assert exchange is not None
        try:
            if not self._sink.receive_ready(exchange):
                self._task = asyncio.ensure_future(self._read(exchange))
                self._task.add_done_callback(self._driven)
        except Exception as error:  # whatever it is, the caller gets it
            exchange.cancel("the caller failed")
            self._sink.fail(error)

    def _driven(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():  # before its first step, when not even its own except clause was reached
            if self._exchange is not None:
                self._exchange.cancel("cancelled by the caller")
            self._sink.fail(RequestCancelledError(self.request_id))

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
        elif self._exchange is not None:
            self._exchange.cancel("cancelled by the caller")

    async def _drive(self) -> None:
        try:
            await self._pack()
            exchange = await self._open()
        except asyncio.CancelledError:
            self._sink.fail(RequestCancelledError(self.request_id))
        except Exception as error:  # whatever it is, the caller gets it
            self._sink.fail(error)
        else:
            await self._read(exchange)
        finally:
            self._body = b""  # the response is kept by its caller for as long as it likes, the arguments need not be

    async def _read(self, exchange: Exchange) -> None:
        try:
            await self._sink.receive(exchange)
        except asyncio.CancelledError:
            exchange.cancel("cancelled by the caller")
            self._sink.fail(RequestCancelledError(self.request_id))
        except Exception as error:  # whatever it is, the caller gets it
            exchange.cancel("the caller failed")
            self._sink.fail(error)

    async def _open(self) -> Exchange:
        """Put the packed call on a replica."""
        routes = await self._runtime.routes()
        route = await find_route(routes, self.key)
        return await self._send(routes, route)

    async def _send(self, routes: RouteSource, route: DeploymentRoute) -> Exchange:
        outgoing = self._outgoing(route)
        outgoing.queue_timeout_s = queue_timeout_s(routes, self.key)
        if route.max_queued_requests != -1:
            return await routes.router(self.key).send(outgoing)
        # A program may start ten thousand calls at once, as with Ray: those beyond what a router holds wait here.
        line = self._runtime.line(self.key)
        if line.locked():
            await self._wait_in_line(line, outgoing)
        else:
            await line.acquire()
        try:
            return await routes.router(self.key).send(outgoing)
        finally:
            line.release()

    async def _wait_in_line(self, line: asyncio.Semaphore, outgoing: Outgoing) -> None:
        """It is one wait to its caller: what is waited here is not waited in the router."""
        began_s = time.monotonic()
        until_s = began_s + outgoing.queue_timeout_s
        if outgoing.deadline is not None:
            until_s = min(until_s, outgoing.deadline)
        try:
            async with asyncio.timeout(max(0.0, until_s - began_s)):
                await line.acquire()
        except TimeoutError as error:
            if until_s == outgoing.deadline:
                raise DeadlineExceededError(f"the deadline of request {self.request_id} passed in the queue") from error
            message = f"{self.key}: no replica had a free slot within {outgoing.queue_timeout_s:g} s"
            raise QueueTimeoutError(message) from error
        outgoing.queue_timeout_s = max(0.001, until_s - time.monotonic())

    async def _pack(self) -> None:
        if not self._pending:
            return
        for answer in self._pending.values():  # they all run already: one after the other is as fast as together
            await settled(answer)
        ready = {which: Forwarded(answer.result()) for which, answer in self._pending.items()}
        args = tuple(ready.get(id(arg), arg) for arg in self._args)
        kwargs = {name: ready.get(id(arg), arg) for name, arg in self._kwargs.items()}
        self._body, self._args, self._kwargs, self._pending = dumps(args, kwargs), (), {}, {}

    def _outgoing(self, route: DeploymentRoute) -> Outgoing:
        outgoing = outgoing_call(self.key, self._options, self.request_id, self._parent)
        outgoing.body, outgoing.end, outgoing.retry_safe = self._body, True, bool(route.retry_safe)
        return outgoing


def request_id_of(parent: RequestContext | None) -> str:
    return parent.request_id if parent is not None and parent.request_id else str(uuid.uuid4())


def outgoing_call(key: DeploymentKey, options: CallOptions, request_id: str, parent: RequestContext | None) -> Outgoing:
    """A method call without arguments yet; deadline and route are inherited from the request it is made for."""
    from serve_rt.pb import stream_pb2
    from serve_rt.routing import Outgoing

    parent = parent or RequestContext()
    return Outgoing(
        http=None,
        call=stream_pb2.MethodCall(method=options.method_name, stream=options.stream),
        body=b"",
        end=False,
        request_id=request_id,
        deadline=parent.deadline,
        queue_timeout_s=CALL_QUEUE_TIMEOUT_S,
        app=key.app,
        route=parent.route,
        multiplexed_model_id=options.multiplexed_model_id,
        session_id=options.session_id,
    )


def queue_timeout_s(routes: RouteSource, key: DeploymentKey) -> float:
    """How long a call may wait for a slot: as the application that is called says, else CALL_QUEUE_TIMEOUT_S."""
    apps = routes.table.apps if routes.table is not None else ()
    return next((app.call_queue_timeout_s for app in apps if app.name == key.app), CALL_QUEUE_TIMEOUT_S)


def _answers(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[int, concurrent.futures.Future[Received]]:
    """The top-level arguments that are other calls' answers, by identity: one passed twice is awaited once."""
    values = (*args, *kwargs.values())
    return {id(value): value.raw_answer() for value in values if hasattr(type(value), "raw_answer")}


async def find_route(routes: RouteSource, key: DeploymentKey) -> DeploymentRoute:
    """The deployment's route, waiting a moment for one that was deployed just now.

    *Errors*: DeploymentUnavailableError when it does not exist (any more).
    """
    route = _route_in(routes.table, key)
    if route is None:
        patience_s = GONE_DEPLOYMENT_TIMEOUT_S if routes.was_known(key) else UNKNOWN_DEPLOYMENT_TIMEOUT_S
        route = await _appearing(routes, key, patience_s)
    return route


async def _appearing(routes: RouteSource, key: DeploymentKey, patience_s: float) -> DeploymentRoute:
    try:
        async with asyncio.timeout(patience_s):
            while (route := _route_in(routes.table, key)) is None:
                await routes.wait_for_change()
            return route
    except TimeoutError as error:
        message = f"{key} does not exist: it was deleted, or never deployed. See `serve status`."
        raise DeploymentUnavailableError(key, message) from error


def _route_in(table: RouteTable | None, key: DeploymentKey) -> DeploymentRoute | None:
    if table is None:
        return None
    return next((route for route in table.deployments if route.key == key), None)
