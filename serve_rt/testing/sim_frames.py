"""Streams of frames between simulated processes: what serve_rt.transport sends requests over, and answers that a caller
may cancel. The pipes and their faults are those of `sim_network`, which makes both.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

import grpc
import grpc.aio

from serve_rt.testing.sim_loop import SimProcess
from serve_rt.testing.sim_pipe import Broken, Pipe
from serve_rt.testing.sim_rpc import rpc_error

if TYPE_CHECKING:
    from serve_rt.testing.sim_network import SimNetwork, SimServer


class OpenStream(Protocol):
    """What faults do to a stream of either kind."""

    caller: SimProcess
    server: SimServer
    up: Pipe
    down: Pipe

    def broke(self, why: str) -> None: ...


class FrameCall:
    """The caller's end, as `serve_rt.transport.client.dial` uses grpc's: it connects when it is made."""

    def __init__(
        self, network: SimNetwork, caller: SimProcess, reach: Callable[[], Awaitable[SimServer]], method: str
    ) -> None:
        self._network, self._caller, self._reach, self._method = network, caller, reach, method
        self._opening = asyncio.create_task(self._open(), name=f"dial {method}")
        self._stream: FrameStream | None = None

    async def _open(self) -> FrameStream:
        server = await self._reach()
        self._stream = FrameStream(self._network, self._caller, server, self._method)
        return self._stream

    async def read(self) -> bytes | None:
        stream = await asyncio.shield(self._opening)
        return await stream.down.receive()

    async def write(self, frame: bytes) -> None:
        stream = await asyncio.shield(self._opening)
        if stream.over:
            raise rpc_error(grpc.StatusCode.UNAVAILABLE, "the stream is over")
        stream.up.send(frame)

    def cancel(self) -> None:
        self._opening.cancel()
        if self._stream is not None:
            self._stream.cancel()


class FrameStream:
    """Both pipes, and the server's handler between them."""

    def __init__(self, network: SimNetwork, caller: SimProcess, server: SimServer, method: str) -> None:
        self._network, self.caller, self.server = network, caller, server
        self.up = Pipe(network.wires, caller.node, server.process.node)
        self.down = Pipe(network.wires, server.process.node, caller.node)
        self.over = False
        handler: Any = server.method(method)
        self._serving = server.process.start(self._serve(handler), name=f"serve {method}")
        network.opened(self)

    async def _serve(self, handler: Any) -> None:  # Any: grpc's handler, which has no type for frames
        try:
            await handler.stream_stream(None, self)
            self.down.send(None)
        finally:
            self.over = True
            self._network.closed(self)

    # --- the server's context -------------------------------------------------------------------------------------

    async def read(self) -> bytes | None:
        return await self.up.receive()

    async def write(self, frame: bytes) -> None:
        if self.over:
            raise rpc_error(grpc.StatusCode.UNAVAILABLE, "the stream is over")
        self.down.send(frame)

    def peer(self) -> str:
        return self.caller.name

    # --- its ends -------------------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """The caller has left: the server hears of it when the wire lets it."""
        if self.over:
            return
        self.over = True
        self._network.closed(self)
        self.down.end(rpc_error(grpc.StatusCode.CANCELLED, "cancelled here"))
        wires, there = self._network.wires, (self.caller.node, self.server.process.node)
        delay = wires.delay_s(*there) if wires.open(*there) else wires.keepalive_s()
        wires.later(delay, self._end_above, "the caller has left")

    def broke(self, why: str) -> None:
        self.over = True
        self._network.closed(self)
        self.down.end(rpc_error(grpc.StatusCode.UNAVAILABLE, why))
        self._end_above(why)

    def _end_above(self, why: str) -> None:
        self.up.end(rpc_error(grpc.StatusCode.UNAVAILABLE, why))
        self._serving.cancel()


class Replies:
    """The answers of a call that its caller may cancel."""

    def __init__(self, replies: AsyncIterator[Any]) -> None:
        self._replies = replies
        self._next: asyncio.Future[Any] | None = None
        self._cancelled = False

    def __aiter__(self) -> Replies:
        return self

    async def __anext__(self) -> Any:
        self._next = asyncio.ensure_future(anext(self._replies))
        try:
            return await self._next
        finally:
            self._next.cancel()

    def cancel(self) -> bool:
        self._cancelled = True
        return self._next is not None and self._next.cancel()

    def cancelled(self) -> bool:
        return self._cancelled


__all__ = ["Broken", "FrameCall", "FrameStream", "OpenStream", "Replies"]
