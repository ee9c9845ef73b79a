"""FakeEtcd: an `EtcdStore` in memory, with time you turn and faults you switch.

    clock = ManualClock(); etcd = FakeEtcd(clock=clock); agent_link = etcd.peer()
    agent_link.unavailable = True   # this client is cut off; its leases go on expiring
    agent_link.delay_s = lambda: 0.02; agent_link.watch_lag_s = 3.0   # this client is far away, or its watch behind
    etcd.stop(); etcd.start()       # the server is away; leases get their whole time again
    etcd.drop_replies(1)            # the next write is done, and its answer lost
    etcd.freeze(); etcd.wipe(); etcd.expire_lease(lease)

Nothing sleeps for real with a ManualClock: leases end when `clock.advance` passes their time. The rules of the store
are in etcd_machine.py; this file is who can reach it.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from serve_rt.aio import Clock, SystemClock, TaskOwner, cancel_and_wait
from serve_rt.errors import EtcdUnavailableError
from serve_rt.etcd.values import Compare, Delete, EtcdStatus, Events, KeyValue, Put, Snapshot, TxnResult
from serve_rt.testing.etcd_machine import EtcdMachine

T = TypeVar("T")
OnTxn = Callable[[str, Sequence[Compare], Sequence[Put | Delete], bool], None]
"""Told of each transaction: which client asked, what, and whether it was done."""


class _Server:
    """What all clients share: the store, its clock, and whether it runs."""

    def __init__(self, clock: Clock) -> None:
        self.machine = EtcdMachine()
        self.clock = clock
        self.running = True
        self.lives = 0
        """How often it was stopped or wiped: a watch of an earlier life is broken."""
        self.changed = asyncio.Event()
        self.on_txn: list[OnTxn] = []
        self._watching: dict[asyncio.Future[None], str] = {}
        """Watches that wait for a change below their prefix."""
        self._told_of = self.machine.revision
        self._tasks = TaskOwner("fake etcd")
        self._context = contextvars.copy_context()

    def notify(self) -> None:
        """Wake everybody who waits for a change; later waiters wait for the next one."""
        woken, self.changed = self.changed, asyncio.Event()
        woken.set()
        self._told_of = self.machine.revision
        self._wake(tuple(self._watching))

    def wrote(self) -> None:
        """Wake the watches that the last writes concern: most are of one key, and most writes of others."""
        keys = self.machine.keys_since(self._told_of)
        self._told_of = self.machine.revision
        self._wake([w for w, prefix in self._watching.items() if any(key.startswith(prefix) for key in keys)])

    def _wake(self, watches: Sequence[asyncio.Future[None]]) -> None:
        for watch in watches:
            del self._watching[watch]
            if not watch.done():
                watch.set_result(None)

    async def touched(self, prefix: str) -> None:
        """Something below `prefix` may have changed."""
        waiting = asyncio.get_running_loop().create_future()
        self._watching[waiting] = prefix
        try:
            await waiting
        finally:
            self._watching.pop(waiting, None)

    def expire_leases(self) -> None:
        before = self.machine.revision
        if self.running:
            self.machine.expire(self.clock.monotonic())
        if self.machine.revision != before:
            self.notify()

    def carry(self, arriving: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """On the wire: nothing that happens to its sender stops it."""
        task: asyncio.Task[T] = self._context.copy().run(asyncio.create_task, arriving, name="a late write")
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # its sender may not wait any more
        return task

    def end_in_time(self, lease: int) -> None:
        """In the server's own context: a client that is simulated and stopped does not stop the server's clock."""
        timer = self._end_in_time(lease)
        self._context.copy().run(lambda: self._tasks.start(timer, name=f"lease {lease}"))

    async def _end_in_time(self, lease: int) -> None:
        """Somebody must delete a dead lease's keys even if nobody calls."""
        while (expires_s := self.machine.expiry_of(lease)) is not None:
            left_s = expires_s - self.clock.monotonic()
            if left_s > 0:
                await self.clock.sleep(left_s)
            elif self.running:
                self.expire_leases()
            else:
                await self.changed.wait()

    async def close(self) -> None:
        await self._tasks.close()


class FakeEtcd:
    """One client's view. *Resources*: `close()` ends the leases' timers if this client made the store."""

    def __init__(
        self, *, clock: Clock | None = None, timeout_s: float = 5.0, name: str = "", _server: _Server | None = None
    ) -> None:
        self.name = name
        self.delay_s: Callable[[], float] | None = None
        """How long a call is on its way, there and back each."""
        self.watch_lag_s = 0.0
        """So much later this client's watches hear of anything."""
        self._owns_server = _server is None
        self._server = _server or _Server(clock or SystemClock())
        self._timeout_s = timeout_s
        self._unavailable = False
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._replies_to_drop = 0
        self._late_writes, self._late_s = 0, 0.0
        self._interruptions = 0
        self._closed = False

    def peer(self, name: str = "") -> FakeEtcd:
        """Another client of the same store, with faults of its own."""
        return FakeEtcd(timeout_s=self._timeout_s, name=name, _server=self._server)

    def on_txn(self, listener: OnTxn) -> None:
        """For checks: told of every transaction of every client, when the store has decided it."""
        self._server.on_txn.append(listener)

    @property
    def machine(self) -> EtcdMachine:
        """The store itself, for checks: reading it is no call of anybody."""
        return self._server.machine

    # --- faults of this client's link -------------------------------------------------------------------------------

    @property
    def unavailable(self) -> bool:
        return self._unavailable

    @unavailable.setter
    def unavailable(self, value: bool) -> None:
        """Calls fail at once, nothing is sent; watches wait and resume."""
        self._unavailable = value
        self._interrupt()

    def freeze(self) -> None:
        """Calls hang until `thaw()` or their time limit, which the clock measures."""
        self._thawed.clear()
        self._interrupt()

    def break_watches(self) -> None:
        """Its watches resume where they were, or with a Snapshot if the store has compacted that away."""
        self._interrupt()

    def thaw(self) -> None:
        self._thawed.set()
        self._server.notify()

    def drop_replies(self, count: int) -> None:
        """The next writes are applied, and raise EtcdUnavailableError(maybe_applied=True)."""
        self._replies_to_drop = count

    def delay_writes(self, count: int, seconds: float) -> None:
        """The next writes are under way for long, and arrive even if their writer has given them up."""
        self._late_writes, self._late_s = count, seconds

    def _interrupt(self) -> None:
        self._interruptions += 1
        self._server.notify()

    # --- faults of the store, seen by all its clients ---------------------------------------------------------------

    def stop(self) -> None:
        """The server is down: nobody reaches it and no lease ends."""
        self._server.running = False
        self._server.lives += 1
        self._server.notify()

    def start(self) -> None:
        self._server.machine.renew_all(self._server.clock.monotonic())
        self._server.running = True
        self._server.notify()

    def wipe(self) -> None:
        """The data is gone and the revision starts again."""
        self._server.machine.wipe()
        self._server.lives += 1
        self._server.notify()

    def expire_lease(self, lease: int) -> None:
        self._server.machine.revoke(lease)
        self._server.notify()

    # --- the store --------------------------------------------------------------------------------------------------

    async def get(self, key: str) -> KeyValue | None:
        return (await self._reach()).get(key)

    async def list(self, prefix: str) -> Snapshot:
        return (await self._reach()).snapshot(prefix)

    async def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        return (await self._apply([], [Put(key, value, lease)]))[0].revision

    async def delete(self, key: str, *, prefix: bool = False) -> int:
        return (await self._apply([], [Delete(key, prefix)]))[1]

    async def txn(
        self, compares: Sequence[Compare], then: Sequence[Put | Delete], read_on_failure: Sequence[str] = ()
    ) -> TxnResult:
        return (await self._apply(compares, then, read_on_failure))[0]

    async def grant(self, ttl_s: int, lease_id: int = 0) -> int:
        machine = await self._reach(write=True)
        lease = machine.grant(ttl_s, lease_id, self._server.clock.monotonic())
        self._server.end_in_time(lease)
        await self._answer()
        return lease

    async def keep_alive(self, lease: int, *, timeout_s: float | None = None) -> float:
        machine = await self._reach(timeout_s=timeout_s)
        return machine.keep_alive(lease, self._server.clock.monotonic())

    async def revoke(self, lease: int, *, timeout_s: float | None = None) -> None:
        (await self._reach(timeout_s=timeout_s)).revoke(lease)
        self._server.notify()

    async def status(self) -> EtcdStatus:
        machine = await self._reach()
        return EtcdStatus("3.6.0", machine.cluster_id, 0, machine.revision)

    async def compact(self, revision: int) -> None:
        (await self._reach(write=True)).compact(revision)
        await self._answer()

    async def close(self) -> None:
        self._closed = True
        self._interrupt()
        if self._owns_server:
            await self._server.close()

    async def watch(self, prefix: str) -> AsyncGenerator[Snapshot | Events, None]:
        machine = self._server.machine
        revision, cluster_id = 0, 0
        while True:
            await self._until_reachable()
            connection = self._connection()
            if not cluster_id or cluster_id != machine.cluster_id or machine.compacted > revision + 1:
                snapshot = machine.snapshot(prefix)
                went_back = cluster_id not in (0, machine.cluster_id)
                revision, cluster_id = snapshot.revision, machine.cluster_id
                yield replace(snapshot, went_back=went_back)
            due = seen = revision
            while self._connection() == connection:
                events = machine.next_events(seen, prefix)
                if events is None:
                    seen = machine.revision
                    await self._server.touched(prefix)
                elif self.watch_lag_s and events.revision > due:
                    due = machine.revision
                    await self._server.clock.sleep(self.watch_lag_s)
                else:
                    revision = seen = events.revision
                    yield events

    # --- reaching it ------------------------------------------------------------------------------------------------

    async def _apply(
        self, compares: Sequence[Compare], then: Sequence[Put | Delete], read_on_failure: Sequence[str] = ()
    ) -> tuple[TxnResult, int]:
        """The answer, and how many keys were deleted."""
        if self._late_writes and then:
            self._late_writes -= 1
            arrival = self._arrive_late(self._late_s, compares, then, read_on_failure)
            return await self._answer_in_time(self._server.carry(arrival))
        return await self._decide(await self._reach(write=True), compares, then, read_on_failure)

    async def _answer_in_time(self, arriving: asyncio.Task[T]) -> T:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.shield(arriving)
        except TimeoutError:
            raise EtcdUnavailableError("fake etcd has not answered", maybe_applied=True) from None

    async def _arrive_late(
        self, seconds: float, compares: Sequence[Compare], then: Sequence[Put | Delete], read_on_failure: Sequence[str]
    ) -> tuple[TxnResult, int]:
        await self._server.clock.sleep(seconds)
        return await self._decide(await self._reach(write=True), compares, then, read_on_failure)

    async def _decide(
        self,
        machine: EtcdMachine,
        compares: Sequence[Compare],
        then: Sequence[Put | Delete],
        read_on_failure: Sequence[str],
    ) -> tuple[TxnResult, int]:
        succeeded, deleted = machine.txn(compares, then)
        found = () if succeeded else tuple(kv for key in read_on_failure if (kv := machine.get(key)) is not None)
        result = TxnResult(succeeded, machine.revision, found)
        for listener in self._server.on_txn:
            listener(self.name, compares, then, succeeded)
        await self._answer()
        return result, deleted

    async def _reach(self, *, write: bool = False, timeout_s: float | None = None) -> EtcdMachine:
        await self._travel()
        if not self._thawed.is_set():
            await self._wait_for_thaw(write, self._timeout_s if timeout_s is None else timeout_s)
        if self._closed or self._unavailable or not self._server.running:
            raise EtcdUnavailableError("fake etcd is unavailable, nothing was sent")
        self._server.expire_leases()
        return self._server.machine

    async def _wait_for_thaw(self, write: bool, timeout_s: float) -> None:
        thawed = asyncio.create_task(self._thawed.wait(), name="fake etcd: thaw")
        limit = asyncio.create_task(self._server.clock.sleep(timeout_s), name="fake etcd: time limit")
        try:
            await asyncio.wait({thawed, limit}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancel_and_wait(thawed, limit)
        if not self._thawed.is_set():
            raise EtcdUnavailableError(f"fake etcd is frozen: no answer in {timeout_s:g} s", maybe_applied=write)

    async def _travel(self) -> None:
        """As in life, others run while a call is on its way."""
        await (asyncio.sleep(0) if self.delay_s is None else self._server.clock.sleep(self.delay_s()))

    async def _answer(self) -> None:
        """The write is done: watchers see it, the caller hears of it unless the answer is to be lost."""
        self._server.wrote()
        if self.delay_s is not None:
            await self._travel()
            if not self._thawed.is_set():
                await self._wait_for_thaw(True, self._timeout_s)
        if self._replies_to_drop:
            self._replies_to_drop -= 1
            raise EtcdUnavailableError("fake etcd did it and lost the answer", maybe_applied=True)

    def _connection(self) -> tuple[int, int]:
        """Differs from before when a watch would have been broken in between."""
        return self._interruptions, self._server.lives

    async def _until_reachable(self) -> None:
        while self._unavailable or not self._thawed.is_set() or not self._server.running:
            if self._closed:
                break
            await self._server.changed.wait()
        if self._closed:
            raise EtcdUnavailableError("the fake etcd client is closed")

    def __repr__(self) -> str:
        state = "closed" if self._closed else "unavailable" if self._unavailable else "up"
        return f"<FakeEtcd {state} at revision {self._server.machine.revision}>"
