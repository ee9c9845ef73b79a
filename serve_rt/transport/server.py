"""The replica's side of all streams: what serve_rt.replica serves, and where requests enter it.

`StreamService` holds the slots, greets callers and hands each request that got a slot to the `RequestHandler`. One
instance per replica process, on its main loop. Next stop of a request: serve_rt.replica.dispatch.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Protocol

import grpc
import grpc.aio

from serve_rt.credentials import ClusterToken
from serve_rt.errors import Outcome
from serve_rt.transport.limits import HELLO_TIMEOUT_S
from serve_rt.transport.pump import read_frames, write_frames
from serve_rt.transport.server_request import ServerRequest
from serve_rt.transport.server_stream import ReplicaIdentity, ServerStream
from serve_rt.transport.slots import Slots

__all__ = ["ReplicaIdentity", "RequestHandler", "ServerRequest", "StreamService"]

log = logging.getLogger(__name__)


class RequestHandler(Protocol):
    def start(self, request: ServerRequest) -> None:
        """Begin the work. On the main loop, must not block; the slot is already taken."""
        ...


class StreamService:
    """*Resources*: the owner of the gRPC server calls `drain` and then `close`."""

    def __init__(self, identity: ReplicaIdentity, token: ClusterToken, handler: RequestHandler, capacity: int) -> None:
        self.identity = identity
        self.token = token
        self.slots = Slots(capacity)
        self.streams: set[ServerStream] = set()
        self.draining = False
        self.models: tuple[str, ...] = ()
        """Multiplexed models that are loaded or loading here."""
        self._handler = handler
        self._pumps: set[asyncio.Task[None]] = set()
        self._past: dict[str, int] = dict.fromkeys(_COUNTERS, 0)
        method: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(self._exchange)
        self.grpc_handler: grpc.GenericRpcHandler = grpc.method_handlers_generic_handler(
            "serve_rt.v1.Requests", {"Exchange": method}
        )

    @property
    def ongoing(self) -> int:
        """Slots taken: requests whose user code has not left yet."""
        return self.slots.ongoing

    @property
    def counters(self) -> dict[str, int]:
        """Parts that moved, over all streams since the start."""
        return {name: self._past[name] + sum(getattr(stream, name) for stream in self.streams) for name in _COUNTERS}

    def set_capacity(self, capacity: int) -> None:
        self.slots.change(capacity=capacity)
        for stream in self.streams:
            stream.announce_capacity()

    def set_accepting(self, accepting: bool) -> None:
        """While false (before the constructor is done) every Open is rejected, and owed a slot."""
        self.slots.change(accepting=accepting)

    def set_models(self, models: tuple[str, ...]) -> None:
        if models != self.models:
            self.models = models
            for stream in self.streams:
                stream.tell_models()

    async def drain(self, timeout_s: float) -> bool:
        """Take nothing new, wait for what runs; whether it all ended in time."""
        self.draining = True
        self.slots.change(accepting=False)
        for stream in self.streams:
            stream.drain()
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        while self.slots.ongoing or any(stream.requests for stream in self.streams):
            left = until - loop.time()
            if left <= 0:
                return False
            await asyncio.sleep(min(left, 0.02))
        return True

    async def close(self) -> None:
        """End all streams."""
        for stream in tuple(self.streams):
            stream.lost("the replica is stopping")
        if self._pumps:
            await asyncio.wait(self._pumps, timeout=1.0)

    # --- for the streams ------------------------------------------------------------------------------------------

    def start(self, request: ServerRequest) -> None:
        try:
            self._handler.start(request)
        except Exception as error:  # a bug in the handler must not end the stream and everybody else's requests
            log.exception("the handler failed to start %r", request, extra={"action": "start_failed"})
            request.fail(Outcome.STARTED, type(error).__name__, str(error))
            request.finished()

    def greeted(self, stream: ServerStream) -> None:
        self.streams.add(stream)
        if self.draining:
            stream.drain()
        log.info("stream from %s", stream.peer, extra={"action": "stream_opened"})

    def stream_lost(self, stream: ServerStream) -> None:
        self.slots.forget(stream)
        if stream in self.streams:
            self.streams.remove(stream)
            for name in _COUNTERS:
                self._past[name] += getattr(stream, name)

    # --- gRPC -----------------------------------------------------------------------------------------------------

    async def _exchange(self, _iterator: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        stream = ServerStream(self)
        wire = _ServerWire(context)
        late = asyncio.get_running_loop().call_later(HELLO_TIMEOUT_S, self._greeting_late, stream)
        reader = asyncio.create_task(read_frames(wire, stream), name="stream reader")
        writer = asyncio.create_task(write_frames(wire, stream), name="stream writer")
        for task in (reader, writer):
            self._pumps.add(task)
            task.add_done_callback(self._pumps.discard)
        try:
            # The writer ends when the stream is over and the last frame is out; returning then ends the call, and
            # with it the reader's pending read.
            await asyncio.wait({writer})
        finally:
            late.cancel()
            stream.lost("the connection is gone")

    def _greeting_late(self, stream: ServerStream) -> None:
        if not stream.greeted:
            stream.refuse(f"no Hello within {HELLO_TIMEOUT_S:g} s")

    def __repr__(self) -> str:
        return f"<StreamService {self.identity.replica_id} {self.slots!r} [{len(self.streams)} streams]>"


_COUNTERS = ("opens_received", "heads_sent", "data_sent", "data_received", "rejected_sent")


class _ServerWire:
    """The server's end of a gRPC call."""

    def __init__(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self._context = context

    async def read(self) -> bytes | None:
        try:
            data = await self._context.read()
        except Exception:  # grpc raises several private classes when the connection is gone
            return None
        return data if isinstance(data, bytes) else None

    async def write(self, frame: bytes) -> bool:
        try:
            await self._context.write(frame)
        except Exception:  # grpc raises several private classes when the connection is gone
            return False
        return True
