"""Election and fencing: one leader key, under the leader's lease; its create_revision is the epoch.

Few candidates (one per agent), so one key is enough: whoever creates it leads. The lock alone is no mutual exclusion
(a paused leader does not know that its lease ended), so every write of a leader is a transaction that compares the
leader key: `Leadership.write` is the only way a controller writes.

A write whose answer did not come may still be applied, long after its leader gave it up and decided otherwise; the
epoch does not tell the two apart. So what a write compares is the key's mod_revision, and after a write of unknown fate
the leader writes its key once more (`settle`): what was sent before compares a revision that never comes back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import NoReturn

from serve_rt.aio import Backoff, TaskOwner, cancel_and_wait
from serve_rt.config.failpoints import reached
from serve_rt.config.protections import Protection, enabled
from serve_rt.errors import EtcdError, EtcdUnavailableError, FencedError
from serve_rt.etcd.contract import EtcdStore
from serve_rt.etcd.keys import kind_of
from serve_rt.etcd.lease import Session
from serve_rt.etcd.values import (
    Compare,
    Delete,
    EventKind,
    Events,
    KeyValue,
    Put,
    Snapshot,
    TxnResult,
    absent,
    created_at,
    modified_at,
)

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.05
MAX_PAUSE_S = 0.5


class Election:
    """A candidate; `value` is what others read about the leader (its address)."""

    def __init__(self, store: EtcdStore, session: Session, key: str, value: bytes) -> None:
        self._store = store
        self._session = session
        self._key = key
        self._value = value

    async def campaign(self) -> Leadership:
        """Wait until the key is free and take it.

        *Resources*: the Leadership has a task; end it with `resign()`. *Errors*: SessionLostError when the session is
        lost before that; EtcdError when refused for good.
        """
        winning = asyncio.create_task(self._win(), name=f"etcd election: campaign for {self._key}")
        losing = asyncio.create_task(self._session.lost.wait(), name="etcd election: session lost")
        try:
            await asyncio.wait({winning, losing}, return_when=asyncio.FIRST_COMPLETED)
            if not winning.done():
                self._session.check()
            epoch = await winning
        finally:
            await cancel_and_wait(winning, losing)
        return Leadership(self._store, self._session, self._key, epoch)

    async def _win(self) -> int:
        async with aclosing(self._store.watch(self._key)) as changes:
            async for change in changes:
                if _may_be_free(change, self._key, self._session.lease) and (epoch := await self._take()):
                    return epoch
        raise EtcdError(f"the watch of {self._key} ended")

    async def _take(self) -> int:
        """The epoch if the key is ours now, otherwise 0. An answer lost on the wire is found by looking."""
        put = Put(self._key, self._value, self._session.lease)
        backoff = Backoff(FIRST_PAUSE_S, MAX_PAUSE_S)
        while True:
            self._session.check()
            try:
                result = await self._store.txn([absent(self._key)], [put], [self._key])
            except EtcdUnavailableError:
                # Bounded by the session. Asking again finds our own key if the lost answer was a yes.
                await self._session.clock.sleep(backoff.next_s())
                continue
            if result.succeeded:
                return result.revision
            mine = [kv for kv in result.found if kv.lease == self._session.lease]
            if mine:
                return mine[0].create_revision
            if result.found:
                return 0


def _may_be_free(change: Snapshot | Events, key: str, lease: int) -> bool:
    """Whether nobody else holds the key after this change; what does not concern the key says nothing."""
    if isinstance(change, Snapshot):
        holder = change.items.get(key)
        return holder is None or holder.lease == lease
    last = next((event for event in reversed(change.events) if event.kv.key == key), None)
    return last is not None and (last.kind is EventKind.DELETE or last.kv.lease == lease)


class Leadership:
    """What the winner holds; `lost` is set with the session, when the key is gone or another's, or a write is fenced.

    *Resources*: end it with `resign()`.
    """

    def __init__(self, store: EtcdStore, session: Session, key: str, epoch: int) -> None:
        self._store = store
        self._session = session
        self._key = key
        self.epoch = epoch
        self._mark = epoch
        """The key's mod_revision, which every write compares: it moves when a write of unknown fate is settled."""
        self._settled = True
        self._settling = asyncio.Lock()
        self.lost = asyncio.Event()
        self._tasks = TaskOwner(f"etcd leadership {epoch}", on_failure=lambda _: self.lost.set())
        self._tasks.start(self._until_session_lost(), name="session")
        self._tasks.start(self._until_key_lost(), name="key")

    async def write(
        self, then: Sequence[Put | Delete], compares: Sequence[Compare] = (), read_on_failure: Sequence[str] = ()
    ) -> TxnResult:
        """Do `then` if we still lead and all `compares` hold; `succeeded` is about the latter.

        Writes may overlap. *Errors*: SessionLostError before anything is sent; FencedError when somebody else leads, or
        nobody; EtcdUnavailableError, after which who wants to decide anew awaits `settle` and looks again.
        """
        fenced = enabled(Protection.FENCE)
        if fenced:
            self._session.check()
        for kind in {kind_of(op.key) for op in then}:
            reached(f"leader.write.{kind}")  # a pause here is the one that only the fence sees
        if not fenced:
            return await self._store.txn(compares, then, read_on_failure)
        await self.settle()
        mark = self._mark
        result = await self._send([self._fence(), *compares], then, [self._key, *read_on_failure])
        if result.succeeded:
            for kind in {kind_of(op.key) for op in then}:
                reached(f"leader.wrote.{kind}")
            return result
        held = next((kv for kv in result.found if self._is_ours(kv)), None)
        if held is None:
            self._depose()
        if enabled(Protection.SETTLE) and held.mod_revision != mark:
            self._settled = self._settled and self._mark != mark  # not moved by us: read it again
            raise EtcdUnavailableError("another write was settled meanwhile: nothing of this one was written")
        return replace(result, found=tuple(kv for kv in result.found if kv.key != self._key))

    async def _send(
        self, compares: Sequence[Compare], then: Sequence[Put | Delete], read_on_failure: Sequence[str]
    ) -> TxnResult:
        try:
            return await self._store.txn(compares, then, read_on_failure)
        except EtcdUnavailableError as error:
            self._settled = self._settled and not error.maybe_applied
            raise
        except BaseException:  # cancelled: what was sent may arrive all the same
            self._settled = False
            raise

    async def settle(self) -> int:
        """Make sure that no former write of unknown fate is applied from now on; nothing is sent when there is none.

        Returns the revision since which that holds. Who decides anew must have seen it: until then they may have been
        applied. *Errors*: as `write`; safe to repeat.
        """
        if self._settled or not enabled(Protection.SETTLE):
            return self._mark
        async with self._settling:
            while not self._settled:
                self._session.check()
                kv = await self._store.get(self._key)
                if kv is None or not self._is_ours(kv):
                    self._depose()
                again = Put(self._key, kv.value, self._session.lease)
                # A settling of unknown fate compares this revision or an older one: when ours is through, it cannot be.
                result = await self._store.txn([modified_at(self._key, kv.mod_revision)], [again])
                if result.succeeded:
                    self._mark, self._settled = result.revision, True
                    log.info("epoch %d settled its writes", self.epoch, extra={"action": "leader_settled"})
            return self._mark

    def _fence(self) -> Compare:
        if enabled(Protection.SETTLE):
            return modified_at(self._key, self._mark)
        return created_at(self._key, self.epoch)

    def _depose(self) -> NoReturn:
        self.lost.set()
        raise FencedError(f"epoch {self.epoch} does not lead any more: {self._key} is another's or gone")

    async def resign(self) -> None:
        """Give the key away at once, for a polite stop: the next leader need not wait for the lease."""
        self.lost.set()
        await self._tasks.close()
        try:
            await self._store.txn([created_at(self._key, self.epoch)], [Delete(self._key)])
        except EtcdUnavailableError as error:
            log.info("leader key %s is left to its lease: %s", self._key, error, extra={"action": "resign_unheard"})

    def _is_ours(self, kv: KeyValue) -> bool:
        return kv.key == self._key and kv.create_revision == self.epoch

    async def _until_session_lost(self) -> None:
        await self._session.lost.wait()
        self.lost.set()

    async def _until_key_lost(self) -> None:
        """A leader that nobody fences because it writes nothing still learns that it was deposed."""
        async with aclosing(self._store.watch(self._key)) as changes:
            async for change in changes:
                if not self._still_ours(change):
                    log.warning("epoch %d lost its key %s", self.epoch, self._key, extra={"action": "leader_key_lost"})
                    self.lost.set()
                    return

    def _still_ours(self, change: Snapshot | Events) -> bool:
        if isinstance(change, Snapshot):
            return self._key in change.items and self._is_ours(change.items[self._key])
        about_key = [event for event in change.events if event.kv.key == self._key]
        return not about_key or (about_key[-1].kind is EventKind.PUT and self._is_ours(about_key[-1].kv))

    def __repr__(self) -> str:
        return f"<Leadership of {self._key} epoch {self.epoch} {'lost' if self.lost.is_set() else 'held'}>"
