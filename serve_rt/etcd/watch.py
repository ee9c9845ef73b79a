"""List, then watch, for ever: how a process keeps a true copy of a prefix.

    list at R ──Snapshot──▶ watch from R+1 ──Events──▶ … stream breaks … watch from the last revision + 1
        ▲                                                     │ compacted, or the store went back in time
        └─────────────────────────────────────────────────────┘

One stream per watched prefix: no matching of ids, and one that fails harms no other. What a stream can do wrong, and
what is done about it:

- It breaks: open it again, on the next endpoint, where it left off.
- It goes silent (frozen server, half-open link): ask for progress; without an answer, open it again. The revision of a
  progress answer is *not* a place to resume from: before etcd 3.4.25 and 3.5.8 it may run ahead of events still queued.
- The store was wiped or restored: a watch from a future revision is silent for ever, so the header of the `created`
  answer is compared with what we know. A member that merely lags looks the same; listing again (which is linearizable)
  tells them apart.
- A big revision comes in fragments: gathered, and handed out whole.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

import grpc
import grpc.aio

from serve_rt.aio import Backoff, cancel_and_wait
from serve_rt.errors import EtcdCompactedError, EtcdError, EtcdUnavailableError
from serve_rt.etcd import messages
from serve_rt.etcd.failures import Fate, fate_of, is_stale_token, translated
from serve_rt.etcd.rpc import Rpc
from serve_rt.etcd.values import Event, Events, Snapshot, range_end, range_start

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.05
MAX_PAUSE_S = 1.0


@dataclass(frozen=True, slots=True)
class Listing:
    snapshot: Snapshot
    cluster_id: int


@dataclass(frozen=True, slots=True)
class _Position:
    """How far the reader is, and in which cluster's history."""

    revision: int
    cluster_id: int


async def list_then_watch(
    rpc: Rpc,
    listing: Callable[[str], Awaitable[Listing]],
    prefix: str,
    event_of: Callable[[Any], Event],
    silence_s: float,
) -> AsyncGenerator[Snapshot | Events, None]:
    position: _Position | None = None
    must_list = True
    backoff = Backoff(FIRST_PAUSE_S, MAX_PAUSE_S)
    while True:
        try:
            if must_list or position is None:
                snapshot, position = _after_listing(position, await listing(prefix))
                must_list = False
                yield snapshot
            stream = _WatchStream(rpc, prefix, position, silence_s)
            async with aclosing(stream.batches()) as batches:
                async for raw in batches:
                    backoff.reset()
                    events = tuple(event_of(event) for event in raw)
                    position = replace(position, revision=events[-1].kv.mod_revision)
                    yield Events(events, position.revision)
        except EtcdCompactedError as error:
            log.info("watch of %s lists again: %s", prefix, error, extra={"action": "watch_relist"})
            must_list = True
        except EtcdUnavailableError as error:
            log.debug("watch of %s interrupted: %s", prefix, error, extra={"action": "watch_interrupted"})
            if rpc.closed:
                raise
        await asyncio.sleep(backoff.next_s())


def _after_listing(before: _Position | None, listing: Listing) -> tuple[Snapshot, _Position]:
    found = _Position(listing.snapshot.revision, listing.cluster_id)
    went_back = before is not None and (found.revision < before.revision or found.cluster_id != before.cluster_id)
    if went_back:
        assert before is not None
        log.warning(
            "etcd went back in time: revision %d of cluster %x, after revision %d of cluster %x",
            *(found.revision, found.cluster_id, before.revision, before.cluster_id),
            extra={"action": "store_went_back"},
        )
    return replace(listing.snapshot, went_back=went_back), found


class _WatchStream:
    """One Watch RPC for one prefix, from the position to its first failure."""

    def __init__(self, rpc: Rpc, prefix: str, position: _Position, silence_s: float) -> None:
        self._rpc = rpc
        self._prefix = prefix
        self._position = position
        self._silence_s = silence_s
        self._call: Any = None  # grpc.aio's StreamStreamCall, of messages made at run time

    async def batches(self) -> AsyncGenerator[list[Any], None]:
        """Raw events, each list one or more whole revisions.

        *Errors*: EtcdUnavailableError to open again, EtcdCompactedError to list again, EtcdError when refused for good.
        """
        endpoint = self._rpc.endpoint
        try:
            self._call = await self._rpc.open_watch(endpoint)
            await self._send(messages.WatchRequest(create_request=self._create_request()))
            gathered: list[Any] = []
            async with aclosing(self._responses()) as responses:
                async for response in responses:
                    self._check(response)
                    gathered += response.events
                    if gathered and not response.fragment:
                        yield gathered
                        gathered = []
        except grpc.aio.AioRpcError as error:
            self._rpc.turn_from(endpoint)
            fate = fate_of(error)
            if fate is Fate.STALE_TOKEN:
                self._rpc.forget_token()
                raise EtcdUnavailableError("etcd Watch: the auth token is stale") from error
            raise translated("Watch", error, fate, write=False) from error
        except EtcdUnavailableError:
            self._rpc.turn_from(endpoint)
            raise
        finally:
            if self._call is not None:
                self._call.cancel()

    def _create_request(self) -> Any:
        return messages.WatchCreateRequest(
            key=range_start(self._prefix),
            range_end=range_end(self._prefix, prefix=True),
            start_revision=self._position.revision + 1,
            progress_notify=True,
            fragment=True,
        )

    async def _responses(self) -> AsyncGenerator[Any, None]:
        """What the server says, as long as it says something.

        read() is a task that is waited for, never cancelled: cancelling it would cancel the whole RPC.
        """
        asked = False
        reading = self._start_reading()
        try:
            while True:
                done, _ = await asyncio.wait({reading}, timeout=self._silence_s / 2)
                if not done:
                    if asked:
                        raise EtcdUnavailableError(f"etcd Watch: no sign of life for {self._silence_s} s")
                    asked = True
                    await self._send(messages.WatchRequest(progress_request=messages.WatchProgressRequest()))
                    continue
                response = self._result(reading)
                asked = False
                reading = self._start_reading()
                yield response
        finally:
            await cancel_and_wait(reading)

    def _start_reading(self) -> asyncio.Task[Any]:
        return asyncio.create_task(self._call.read(), name=f"etcd watch: read {self._prefix}")

    def _result(self, reading: asyncio.Task[Any]) -> Any:
        if reading.cancelled():  # the channel was closed under us
            raise EtcdUnavailableError("etcd Watch: the client was closed")
        response = reading.result()
        if response is grpc.aio.EOF:
            raise EtcdUnavailableError("etcd Watch: the server ended the stream")
        return response

    async def _send(self, request: Any) -> None:
        try:
            async with asyncio.timeout(self._silence_s / 2):
                await self._call.write(request)
        except TimeoutError as error:
            raise EtcdUnavailableError(f"etcd Watch: a write hung for {self._silence_s / 2} s") from error
        except asyncio.InvalidStateError as error:  # the RPC ended before the write
            raise EtcdUnavailableError("etcd Watch: the stream ended") from error

    def _check(self, response: Any) -> None:
        if response.compact_revision:
            raise EtcdCompactedError(f"history before revision {response.compact_revision} is compacted")
        if response.canceled:
            if is_stale_token(response.cancel_reason):
                self._rpc.forget_token()
                raise EtcdUnavailableError(f"etcd Watch: {response.cancel_reason}")
            raise EtcdError(f"etcd refused to watch {self._prefix}: {response.cancel_reason}")
        elsewhere = response.header.cluster_id != self._position.cluster_id
        if elsewhere or (response.created and response.header.revision < self._position.revision):
            raise EtcdCompactedError(
                f"revision {self._position.revision} of cluster {self._position.cluster_id:x} is not in the history of "
                f"{response.header.cluster_id:x}, which is at {response.header.revision}"
            )
