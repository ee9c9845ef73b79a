"""Random operations on the fake and on a real etcd: the same answers, the same events.

Revisions are compared relative to where an example begins, because the real store keeps its history.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Protocol

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve_rt.aio import ManualClock
from serve_rt.errors import EtcdError
from serve_rt.etcd import (
    Compare,
    CompareOp,
    CompareTarget,
    Delete,
    EtcdClient,
    EtcdStore,
    Event,
    KeyValue,
    Put,
    Snapshot,
    TxnResult,
)
from serve_rt.testing.fake_etcd import FakeEtcd
from tests.etcd.etcd_server import EtcdServer

ROOT = "/h/"
LAST = "/h/~last"
LEASES = 3
TTL_S = 600
_lease_ids = itertools.count(1000, LEASES)


@dataclass(frozen=True)
class World:
    """A store and where this example begins in it."""

    store: EtcdStore
    base: int
    first_lease: int

    def revision(self, relative: int) -> int:
        return self.base + relative if relative else 0

    def lease(self, index: int) -> int:
        """0 is no lease."""
        return self.first_lease + index - 1 if index else 0

    def relative(self, revision: int) -> int:
        return revision - self.base if revision else 0

    def seen(self, kv: KeyValue) -> KeyValue:
        return replace(
            kv, create_revision=self.relative(kv.create_revision), mod_revision=self.relative(kv.mod_revision)
        )


class Operation(Protocol):
    async def on(self, world: World) -> object: ...


@dataclass(frozen=True)
class DoPut:
    key: str
    value: bytes
    lease: int

    async def on(self, world: World) -> object:
        return world.relative(await world.store.put(self.key, self.value, lease=world.lease(self.lease)))


@dataclass(frozen=True)
class DoDelete:
    key: str
    prefix: bool

    async def on(self, world: World) -> object:
        return await world.store.delete(self.key, prefix=self.prefix)


@dataclass(frozen=True)
class DoTxn:
    compares: Sequence[Compare]
    then: Sequence[Put | Delete]
    reads: Sequence[str]

    async def on(self, world: World) -> object:
        compares = [replace(compare, value=self._absolute(compare, world)) for compare in self.compares]
        then = [replace(each, lease=world.lease(each.lease)) if isinstance(each, Put) else each for each in self.then]
        result = await world.store.txn(compares, then, self.reads)
        found = tuple(world.seen(kv) for kv in result.found)
        return TxnResult(result.succeeded, world.relative(result.revision), found)

    @staticmethod
    def _absolute(compare: Compare, world: World) -> int | bytes:
        if isinstance(compare.value, bytes) or compare.target is CompareTarget.VERSION:
            return compare.value
        if compare.target is CompareTarget.LEASE:
            return world.lease(compare.value % (LEASES + 1))
        return world.revision(compare.value)


@dataclass(frozen=True)
class DoGrant:
    lease: int

    async def on(self, world: World) -> object:
        return await world.store.grant(TTL_S, world.lease(self.lease)) == world.lease(self.lease)


@dataclass(frozen=True)
class DoRevoke:
    lease: int

    async def on(self, world: World) -> object:
        await world.store.revoke(world.lease(self.lease))
        return "revoked"


@dataclass(frozen=True)
class DoKeepAlive:
    lease: int

    async def on(self, world: World) -> object:
        return await world.store.keep_alive(world.lease(self.lease))


@dataclass(frozen=True)
class DoCompact:
    revision: int

    async def on(self, world: World) -> object:
        await world.store.compact(world.revision(self.revision))
        return "compacted"


@dataclass(frozen=True)
class DoList:
    prefix: str

    async def on(self, world: World) -> object:
        snapshot = await world.store.list(self.prefix)
        return [world.seen(kv) for kv in snapshot.items.values()], world.relative(snapshot.revision)


KEYS = st.sampled_from(["/h/a", "/h/ab", "/h/b", "/h/c/1", "/h/c/2"])
PREFIXES = st.sampled_from(["/h/", "/h/a", "/h/c/", "/h/none"])
VALUES = st.sampled_from([b"", b"x", b"xy", b"\x00\xff"])
LEASE = st.integers(1, LEASES)
MAYBE_LEASE = st.one_of(st.just(0), st.just(0), LEASE)
DELETES = st.one_of(st.builds(Delete, KEYS), st.builds(Delete, PREFIXES, st.just(True)))
COMPARES = st.one_of(
    st.builds(Compare, KEYS, st.just(CompareTarget.VALUE), VALUES, st.sampled_from(CompareOp)),
    st.builds(
        Compare,
        KEYS,
        st.sampled_from([target for target in CompareTarget if target is not CompareTarget.VALUE]),
        st.integers(0, 6),
        st.sampled_from(CompareOp),
    ),
)
TXNS = st.builds(
    DoTxn,
    st.lists(COMPARES, max_size=2),
    st.lists(st.one_of(st.builds(Put, KEYS, VALUES, MAYBE_LEASE), DELETES), max_size=4),
    st.lists(KEYS, max_size=2),
)
OPERATIONS = st.one_of(
    TXNS,  # thrice: it has most of the rules
    TXNS,
    TXNS,
    st.builds(DoPut, KEYS, VALUES, MAYBE_LEASE),
    st.builds(DoDelete, KEYS, st.just(False)),
    st.builds(DoDelete, PREFIXES, st.just(True)),
    st.builds(DoGrant, LEASE),
    st.builds(DoRevoke, LEASE),
    st.builds(DoKeepAlive, LEASE),
    st.builds(DoCompact, st.integers(1, 12)),
    st.builds(DoList, PREFIXES),
)


async def _answer(operation: Operation, world: World) -> object:
    try:
        return await operation.on(world)
    except EtcdError as error:
        return type(error).__name__


class Collector:
    """Everything a watch says until the last key is written; listing again would show as missing events."""

    def __init__(self, world: World, prefix: str) -> None:
        self._world = world
        self._prefix = prefix
        self.listed = asyncio.Event()
        self.live = asyncio.Event()
        """The first event came: a watch not yet open could be overtaken by a compaction."""

    async def events(self) -> list[Event]:
        seen: list[Event] = []
        async with aclosing(self._world.store.watch(self._prefix)) as changes:
            async for change in changes:
                if isinstance(change, Snapshot):
                    self.listed.set()
                    continue
                self.live.set()
                seen += [replace(event, kv=self._world.seen(event.kv)) for event in change.events]
                if any(event.kv.value == b"end" for event in change.events):
                    return seen
        raise AssertionError("the watch ended")


async def _run(store: EtcdStore, operations: Sequence[Operation], first_lease: int) -> tuple[list[object], list[Event]]:
    await store.delete("", prefix=True)
    world = World(store, (await store.status()).revision, first_lease)
    for index in range(1, LEASES):  # the last one is there only if an operation grants it
        await store.grant(TTL_S, world.lease(index))
    collector = Collector(world, ROOT)
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        collecting = group.create_task(collector.events())
        await collector.listed.wait()
        await store.put(LAST, b"begin")
        await collector.live.wait()
        answers = [await _answer(operation, world) for operation in operations]
        await store.put(LAST, b"end")
        events = await collecting
    for index in range(1, LEASES + 1):
        await store.revoke(world.lease(index))
    return answers, events


@settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(operations=st.lists(OPERATIONS, min_size=6, max_size=30))
def test_the_fake_and_etcd_give_the_same_answers_and_events(
    shared_etcd: EtcdServer, operations: list[Operation]
) -> None:
    first_lease = next(_lease_ids)

    async def compare() -> None:
        fake = FakeEtcd(clock=ManualClock())
        real = EtcdClient([shared_etcd.endpoint], timeout_s=10.0, page_keys=2)
        try:
            fake_answers, fake_events = await _run(fake, operations, first_lease)
            real_answers, real_events = await _run(real, operations, first_lease)
        finally:
            await real.close()
            await fake.close()
        assert fake_answers == real_answers
        assert fake_events == real_events

    asyncio.run(compare())
