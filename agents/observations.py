"""Tells the cluster what this node sees: observed records and held blobs to etcd, the same on the leader's stream.

The supervisor marks replicas as changed; one task writes the newest state of all that changed, again and again until
it is in. Every write compares our registration, so an agent that lost it cannot speak for the node. While etcd is away
nothing queues up: only the set of changed names grows, and it is bounded by what runs here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping

from serve_rt.agents.registration import Registration
from serve_rt.aio import Backoff
from serve_rt.errors import EtcdError, SessionLostError
from serve_rt.model.ids import BlobDigest, ReplicaId
from serve_rt.model.replica import Observed

log = logging.getLogger(__name__)


class Observations:
    def __init__(self, registration: Registration) -> None:
        self._registration = registration
        self._changed: set[ReplicaId] = set()
        self._blobs: set[BlobDigest] = set()
        self._wake = asyncio.Event()
        self._news = asyncio.Event()
        self.observed: Callable[[], Mapping[ReplicaId, Observed]] = dict
        self.stored: Callable[[], Iterable[ReplicaId]] = tuple
        """Replicas that the store says are observed here; what we do not see of them is deleted."""
        self.held_blobs: Callable[[], Iterable[BlobDigest]] = tuple

    def replica_changed(self, replica: ReplicaId) -> None:
        self._changed.add(replica)
        self._wake.set()
        news, self._news = self._news, asyncio.Event()
        news.set()

    def blob_changed(self, digest: BlobDigest) -> None:
        self._blobs.add(digest)
        self._wake.set()

    def all_changed(self) -> None:
        """A new registration: everything is to be said anew, under its lease."""
        self._changed |= {*self.observed(), *self.stored()}
        self._blobs |= set(self.held_blobs())
        self._wake.set()

    @property
    def settled(self) -> bool:
        return not self._changed and not self._blobs

    async def news(self) -> AsyncIterator[None]:
        """One item at each change, several changes may be one."""
        while True:
            news = self._news
            yield
            await news.wait()

    async def run(self) -> None:
        """Until cancelled."""
        backoff = Backoff(0.1, 2.0)
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self.flush()
                backoff.reset()
            except SessionLostError:
                self._registration.lost()
                await self._registration.registered.wait()
                self._wake.set()
            except EtcdError as error:
                log.info("observations wait: %s", error, extra={"action": "observe_failed"})
                await asyncio.sleep(backoff.next_s())
                self._wake.set()

    async def flush(self) -> None:
        """Write what changed. *Errors*: EtcdError; what was not written stays changed."""
        await self._registration.registered.wait()
        writer = self._registration.writer
        if writer is None:
            raise SessionLostError("the node is not registered")
        changed, self._changed = self._changed, set()
        blobs, self._blobs = self._blobs, set()
        try:
            seen = self.observed()
            if changed:
                await writer.observe([seen[r] for r in changed if r in seen], [r for r in changed if r not in seen])
            if blobs:
                held = blobs & set(self.held_blobs())
                await writer.hold_blobs(held, blobs - held)
        except BaseException:
            self._changed |= changed
            self._blobs |= blobs
            raise
