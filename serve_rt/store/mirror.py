"""The mirror: a current copy of the cluster's records, by list-then-watch.

One per agent and per controller candidate. Readers take `mirror.cluster`, a frozen value, whenever they like; it is
never half changed, because etcd's watch delivers whole revisions. While etcd is away the last value stays, and `age_s`
says how old it is. A record that cannot be read is logged and skipped (`fold`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing

from serve_rt.aio import Clock, SystemClock
from serve_rt.errors import DeadlineExceededError, EtcdError
from serve_rt.etcd.contract import EtcdStore
from serve_rt.etcd.keys import Keys
from serve_rt.etcd.values import Event, EventKind, Events, Snapshot
from serve_rt.model.cluster import Cluster
from serve_rt.store.fold import Change, Fold

log = logging.getLogger(__name__)
PROBE_PERIOD_S = 5.0
"""A quiet store says nothing, so its presence is asked for: one small read each period."""

OnChange = Callable[[Cluster], None]


class Mirror:
    """*Resources*: the owner runs `run()` as an eternal task and cancels it. *Errors*: those of `EtcdStore.watch`."""

    def __init__(self, store: EtcdStore, keys: Keys, *, clock: Clock | None = None) -> None:
        self._store, self._keys = store, keys
        self._clock = clock or SystemClock()
        self._fold = Fold()
        self._subscribers: list[OnChange] = []
        self._waiting: set[asyncio.Future[None]] = set()
        self._heard_s = float("-inf")
        self.synced = asyncio.Event()
        """Set by the first snapshot, never cleared."""

    @property
    def cluster(self) -> Cluster:
        return self._fold.cluster

    @property
    def age_s(self) -> float:
        """Since the store was last heard of; infinite before the first snapshot."""
        return self._clock.monotonic() - self._heard_s

    def subscribe(self, on_change: OnChange) -> Callable[[], None]:
        """Call `on_change` after every change, on the loop; it must not block. Returns what ends it."""
        self._subscribers.append(on_change)
        return lambda: self._subscribers.remove(on_change)

    async def wait_for(self, predicate: Callable[[Cluster], bool], timeout_s: float) -> Cluster:
        """The first cluster value for which `predicate` holds. *Errors*: DeadlineExceededError."""
        try:
            async with asyncio.timeout(timeout_s):
                while not (self.synced.is_set() and predicate(self.cluster)):
                    await self._change()
        except TimeoutError as error:
            raise DeadlineExceededError(
                f"the store did not reach the awaited state within {timeout_s:g} s (it is at revision "
                f"{self.cluster.revision}, {self.age_s:.1f} s old)"
            ) from error
        return self.cluster

    async def _change(self) -> None:
        changed = asyncio.get_running_loop().create_future()
        self._waiting.add(changed)
        try:
            await changed
        finally:
            self._waiting.discard(changed)

    # --- following the store --------------------------------------------------------------------------------------

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._probe(), name="mirror: probe")
            tasks.create_task(self._follow(), name="mirror: watch")

    async def _follow(self) -> None:
        async with aclosing(self._store.watch(self._keys.all)) as changes:
            async for change in changes:
                self._take(change)
        raise EtcdError(f"the watch of {self._keys.all} ended")

    def _take(self, change: Snapshot | Events) -> None:
        now = self._heard_s = self._clock.monotonic()
        if isinstance(change, Snapshot):
            listed = (
                Change(self._path(kv.key), kv.value, kv.mod_revision, kv.create_revision)
                for kv in change.items.values()
            )
            self._fold.restart(listed, change.revision, now)
        else:
            self._fold.apply(map(self._change_of, change.events), change.revision, now)
        self.synced.set()
        self._tell()

    def _change_of(self, event: Event) -> Change:
        value = event.kv.value if event.kind is EventKind.PUT else None
        return Change(self._path(event.kv.key), value, event.kv.mod_revision, event.kv.create_revision)

    def _path(self, key: str) -> str:
        return key.removeprefix(self._keys.all)

    def _tell(self) -> None:
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)
        for on_change in tuple(self._subscribers):
            on_change(self.cluster)

    async def _probe(self) -> None:
        while True:
            await self._clock.sleep(PROBE_PERIOD_S)
            try:
                await self._store.get(self._keys.meta)
            except EtcdError as error:
                log.debug("the store does not answer: %s", error, extra={"action": "store_unheard"})
            else:
                if self.synced.is_set():
                    self._heard_s = self._clock.monotonic()

    def __repr__(self) -> str:
        synced = f"revision {self.cluster.revision}, {self.age_s:.1f} s old" if self.synced.is_set() else "not synced"
        return f"<Mirror {self._keys.all} {synced}>"
