"""`handle.choose_replica()` and `handle.dispatch()`: take a slot on one replica first, say later what for.

    async with handle.choose_replica() as selection:
        response = handle.dispatch(selection, request)
        await response

The slot is a request that has been opened and accepted, and whose call and arguments are still to come; leaving the
block without a dispatch cancels it. Between the two the caller knows where the work will run. Next stop of a dispatch:
the same exchange, as any call (serve_rt.handle.call).
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any

from serve_rt.context import RequestContext, current_request
from serve_rt.errors import ReplicaUnavailableError
from serve_rt.handle.call import (
    Call,
    CallOptions,
    Sink,
    find_route,
    outgoing_call,
    queue_timeout_s,
    request_id_of,
)
from serve_rt.handle.crossing import settled
from serve_rt.handle.runtime import HandleRuntime
from serve_rt.model.ids import DeploymentKey

if TYPE_CHECKING:
    from serve_rt.routing import Exchange


@dataclass(frozen=True, eq=False)
class ReplicaSelection:
    """A slot on a replica, good for one `dispatch` until its block is left."""

    replica_id: str
    node_ip: str | None
    port: int | None
    node_id: str | None
    availability_zone: str | None
    replica_metadata: dict[str, Any]  # Any: Ray's routing statistics; empty here
    _choice: ReplicaChoice = field(repr=False)


class ReplicaChoice:
    """What `choose_replica()` returns: an asynchronous context manager.

    *Errors* of entering: as of a call that finds no slot (BackPressureError, DeploymentUnavailableError, …).
    """

    def __init__(self, runtime: HandleRuntime, key: DeploymentKey, options: CallOptions) -> None:
        self.key = key
        self.request_id = ""
        self._runtime, self._options = runtime, options
        self._parent: RequestContext | None = None
        self._task: asyncio.Task[None] | None = None
        self._exchange: Exchange | None = None
        self._chosen: concurrent.futures.Future[ReplicaSelection] = concurrent.futures.Future()
        self._entered = self._left = self._used = False

    async def __aenter__(self) -> ReplicaSelection:
        if self._entered:
            raise RuntimeError("a replica choice can be entered once: call `choose_replica()` again")
        self._entered = True
        self._parent = current_request.get()
        self.request_id = request_id_of(self._parent)
        self._runtime.post(self._begin)
        try:
            await settled(self._chosen)
        except asyncio.CancelledError:
            self._runtime.post(self._give_back)
            raise
        return self._chosen.result()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._left = True
        if not self._used:
            self._runtime.post(self._give_back)

    def use(self, key: DeploymentKey) -> None:
        """The slot is about to be used, from any thread.

        *Errors*: ValueError for another deployment's handle; RuntimeError for a slot that is used or given back.
        """
        if key != self.key:
            raise ValueError(
                f"the replica was chosen by a handle of {self.key} and cannot be dispatched to by one of {key}"
            )
        if self._used:
            raise RuntimeError("this selection was dispatched already: a slot is good for one request")
        if self._left:
            raise RuntimeError("the slot was given back: dispatch inside the `async with` block")
        self._used = True

    # --- on the runtime's loop ------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._task = asyncio.ensure_future(self._reserve())

    async def _reserve(self) -> None:
        try:
            routes = await self._runtime.routes()
            await find_route(routes, self.key)
            outgoing = outgoing_call(self.key, self._options, self.request_id, self._parent)
            assert outgoing.call is not None
            outgoing.call.reserve = True
            outgoing.queue_timeout_s = queue_timeout_s(routes, self.key)
            outgoing.retry_safe = True  # a slot may be taken twice: nothing runs in it yet
            self._exchange = exchange = await routes.router(self.key).send(outgoing)
            await exchange.started()
            outgoing.pinned = True
            self._chosen.set_result(self._selection(exchange))
        except asyncio.CancelledError:
            self._give_back()
            self._chosen.cancel()
        except Exception as error:  # whatever it is, the caller gets it
            self._chosen.set_exception(error)

    def _selection(self, exchange: Exchange) -> ReplicaSelection:
        route = exchange.route
        host, _, port = route.address.rpartition(":") if route is not None else ("", "", "")
        node_id = route.node_id if route is not None else None
        return ReplicaSelection(
            exchange.replica_id, host or None, int(port) if port.isdigit() else None, node_id, None, {}, self
        )

    def _give_back(self) -> None:
        if self._task is not None:
            self._task.cancel()
        if self._exchange is not None:
            self._exchange.cancel("the reserved slot was not used")

    def end(self) -> None:
        """The dispatched call is over, however it ended; a slot that it did not come to use is given back."""
        if self._exchange is not None:
            self._exchange.cancel("the dispatched call is over")

    def take_exchange(self) -> Exchange:
        """*Errors*: ReplicaUnavailableError when the replica went away meanwhile."""
        exchange = self._exchange
        assert exchange is not None
        if exchange.over:
            raise ReplicaUnavailableError(exchange.replica_id)
        return exchange


class DispatchedCall(Call):
    """A call whose slot is there already."""

    def __init__(
        self,
        runtime: HandleRuntime,
        choice: ReplicaChoice,
        options: CallOptions,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        sink: Sink,
    ) -> None:
        super().__init__(runtime, choice.key, options, args, kwargs, sink)
        self.request_id = choice.request_id
        self._choice = choice

    def _begin(self) -> None:
        super()._begin()
        if self._task is None:  # cancelled before the loop saw it
            self._choice.end()

    def _open_at_once(self) -> None:
        """The slot is there already, and must be given back whatever happens."""

    async def _drive(self) -> None:
        try:
            await super()._drive()
        finally:
            self._choice.end()

    async def _open(self) -> Exchange:
        from serve_rt.pb import stream_pb2

        exchange = self._choice.take_exchange()
        named = stream_pb2.MethodCall(method=self._options.method_name, stream=self._options.stream)
        exchange.send(named.SerializeToString(), kind=stream_pb2.DATA_KIND_CALL)
        exchange.send(self._body, end=True)
        return exchange
