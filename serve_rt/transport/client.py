"""Dialing a replica: one channel and one long-lived stream per (client process, replica).

`dial` returns when the stream is over; a router's link (serve_rt.routing.link) calls it again with back-off. The
stream's logic is in client_stream.py and knows nothing of gRPC.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import grpc.aio

from serve_rt.aio import TaskOwner
from serve_rt.credentials import stream_channel
from serve_rt.transport.client_request import ClientRequest, RequestListener
from serve_rt.transport.client_stream import ClientStream, StreamOwner
from serve_rt.transport.limits import HELLO_TIMEOUT_S
from serve_rt.transport.pump import read_frames, write_frames
from serve_rt.transport.server_stream import ReplicaIdentity
from serve_rt.transport.states import RequestState, StreamState

__all__ = [
    "ClientRequest",
    "ClientStream",
    "ReplicaIdentity",
    "RequestListener",
    "RequestState",
    "StreamOwner",
    "StreamState",
    "dial",
]

EXCHANGE = "/serve_rt.v1.Requests/Exchange"
TICK_S = 0.5


async def dial(address: str, stream: ClientStream, tasks: TaskOwner) -> None:
    """Carry `stream` over a new connection to `address` until it ends; cancelling this ends it."""
    loop = asyncio.get_running_loop()
    channel = stream_channel(address)
    call: Any = channel.stream_stream(EXCHANGE)()  # grpc.aio's call types say nothing of byte messages
    wire = _ClientWire(call)
    ticker = _Ticker(stream, loop, call)
    try:
        reader = tasks.start(read_frames(wire, stream), name=f"reader of {stream.identity.replica_id}")
        writer = tasks.start(write_frames(wire, stream), name=f"writer of {stream.identity.replica_id}")
        await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
        if writer.done() and not stream.closed:  # a goodbye: the replica ends the call now
            await asyncio.wait({reader}, timeout=HELLO_TIMEOUT_S)
    finally:
        ticker.stop()
        stream.lost("the connection is gone")
        call.cancel()
        with contextlib.suppress(grpc.aio.AioRpcError):
            await asyncio.shield(channel.close())


class _Ticker:
    """Lets the stream notice silence, and ends a greeting that takes too long."""

    def __init__(self, stream: ClientStream, loop: asyncio.AbstractEventLoop, call: Any) -> None:
        self._stream, self._loop, self._call = stream, loop, call
        self._greet_by = loop.time() + HELLO_TIMEOUT_S
        self._timer = loop.call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        if self._stream.state is StreamState.GREETING and self._loop.time() >= self._greet_by:
            self._call.cancel()
            return
        self._stream.tick(time.monotonic())
        self._timer = self._loop.call_later(TICK_S, self._tick)

    def stop(self) -> None:
        self._timer.cancel()


class _ClientWire:
    """The caller's end of a gRPC call."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def read(self) -> bytes | None:
        try:
            data = await self._call.read()
        except asyncio.CancelledError:  # of the call, which read() reports so; a cancelled task has no pending call
            return None
        except Exception:  # grpc raises several private classes when the connection is gone
            return None
        return data if isinstance(data, bytes) else None

    async def write(self, frame: bytes) -> bool:
        try:
            await self._call.write(frame)
        except asyncio.CancelledError:
            return False
        except Exception:  # grpc raises several private classes when the connection is gone
            return False
        return True
