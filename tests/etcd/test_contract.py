"""What every EtcdStore does, on the fake and on a real etcd."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager

import pytest

from serve_rt.errors import EtcdCompactedError, EtcdError, SessionLostError
from serve_rt.etcd import (
    MAX_REQUEST_BYTES,
    MAX_TXN_OPS,
    Compare,
    CompareOp,
    CompareTarget,
    Delete,
    EtcdStore,
    Event,
    EventKind,
    Events,
    Put,
    Snapshot,
    absent,
    created_at,
    lease_is,
    modified_at,
    value_is,
)
from tests.etcd.conftest import StoreMaker

LONG_TTL_S = 600


async def first_snapshot(changes: AsyncGenerator[Snapshot | Events, None]) -> Snapshot:
    change = await anext(changes)
    assert isinstance(change, Snapshot)
    return change


@asynccontextmanager
async def parked_watch(store: EtcdStore, prefix: str) -> AsyncGenerator[AsyncGenerator[Snapshot | Events, None], None]:
    """A watch whose first snapshot has been read."""
    async with aclosing(store.watch(prefix)) as changes:
        await first_snapshot(changes)
        yield changes


async def next_events(changes: AsyncGenerator[Snapshot | Events, None]) -> Events:
    async with asyncio.timeout(10):
        change = await anext(changes)
    assert isinstance(change, Events)
    return change


async def test_put_counts_versions_and_keeps_the_create_revision(make_store: StoreMaker) -> None:
    async with make_store() as store:
        first = await store.put("/a", b"1")
        second = await store.put("/a", b"2")
        kv = await store.get("/a")
    assert second == first + 1
    assert kv is not None
    assert (kv.key, kv.value, kv.lease) == ("/a", b"2", 0)
    assert (kv.create_revision, kv.mod_revision, kv.version) == (first, second, 2)


async def test_a_key_made_again_has_a_new_create_revision(make_store: StoreMaker) -> None:
    async with make_store() as store:
        await store.put("/a", b"1")
        assert await store.delete("/a") == 1
        assert await store.get("/a") is None
        revision = await store.put("/a", b"1")
        kv = await store.get("/a")
    assert kv is not None
    assert (kv.create_revision, kv.version) == (revision, 1)


async def test_list_gives_all_pages_in_order_and_nothing_else(make_store: StoreMaker) -> None:
    names = [f"/p/{number:03d}" for number in range(10)]  # the real client's page is 3 keys here
    async with make_store() as store:
        for name in reversed(names):
            await store.put(name, name.encode())
        revision = await store.put("/pz", b"")
        await store.put("/o", b"")
        snapshot = await store.list("/p/")
        everything = await store.list("")
    assert list(snapshot.items) == names
    assert [kv.value.decode() for kv in snapshot.items.values()] == names
    assert snapshot.revision == revision + 1
    assert not snapshot.went_back
    assert list(everything.items) == ["/o", *names, "/pz"]


async def test_delete_of_a_prefix_counts_and_of_nothing_makes_no_revision(make_store: StoreMaker) -> None:
    async with make_store() as store:
        for name in ("/a/1", "/a/2", "/ab"):
            revision = await store.put(name, b"")
        assert await store.delete("/none") == 0
        assert await store.delete("/none/", prefix=True) == 0
        assert (await store.status()).revision == revision
        assert await store.delete("/a/", prefix=True) == 2
        assert list((await store.list("")).items) == ["/ab"]


async def test_text_keys_of_any_alphabet(make_store: StoreMaker) -> None:
    async with make_store() as store:
        await store.put("/ü/app#d#ab", b"x")
        await store.put("/ý", b"y")
        assert list((await store.list("/ü")).items) == ["/ü/app#d#ab"]
        assert await store.delete("/ü", prefix=True) == 1


async def test_txn_is_done_when_all_hold(make_store: StoreMaker) -> None:
    async with make_store() as store:
        created = await store.put("/a", b"old")
        result = await store.txn(
            [value_is("/a", b"old"), created_at("/a", created), modified_at("/a", created), absent("/b")],
            [Put("/a", b"new"), Put("/b", b"b"), Delete("/c")],
            ["/a"],
        )
        a, b = await store.get("/a"), await store.get("/b")
    assert result.succeeded
    assert result.found == ()
    assert a is not None and b is not None
    assert a.value == b"new"
    assert a.mod_revision == b.create_revision == result.revision == created + 1


async def test_txn_that_does_not_hold_reads_what_exists(make_store: StoreMaker) -> None:
    async with make_store() as store:
        revision = await store.put("/a", b"mine")
        result = await store.txn([absent("/a")], [Put("/a", b"theirs")], ["/a", "/none"])
        kv = await store.get("/a")
    assert not result.succeeded
    assert result.revision == revision
    assert result.found == (kv,)
    assert kv is not None and kv.value == b"mine"


@pytest.mark.parametrize(
    ("compare", "holds"),
    [
        (value_is("/none", b""), False),
        (Compare("/none", CompareTarget.VALUE, b"x", CompareOp.NE), False),
        (Compare("/none", CompareTarget.VERSION, 0), True),
        (Compare("/none", CompareTarget.MOD, 1, CompareOp.LT), True),
        (lease_is("/none", 0), True),
        (lease_is("/a", 7), False),
        (Compare("/a", CompareTarget.VERSION, 1, CompareOp.GT), True),
        (Compare("/a", CompareTarget.VERSION, 2, CompareOp.LT), False),
        (Compare("/a", CompareTarget.VALUE, b"a", CompareOp.GT), True),
        (Compare("/a", CompareTarget.CREATE, 0, CompareOp.NE), True),
    ],
)
async def test_comparisons(make_store: StoreMaker, compare: Compare, holds: bool) -> None:
    async with make_store() as store:
        await store.put("/a", b"b")
        await store.put("/a", b"b")
        assert (await store.txn([compare], [])).succeeded is holds


async def test_limits_of_a_txn_are_errors_and_change_nothing(make_store: StoreMaker) -> None:
    wrong: list[list[Put | Delete]] = [
        [Put(f"/{number}", b"") for number in range(MAX_TXN_OPS + 1)],
        [Put("/a", b"1"), Put("/a", b"2")],
        [Put("/a/b", b"1"), Delete("/a/", prefix=True)],
        [Put("", b"1")],
        [Put("/big", b"x" * MAX_REQUEST_BYTES)],
    ]
    async with make_store() as store:
        for operations in wrong:
            with pytest.raises(EtcdError):
                await store.txn([], operations)
        assert (await store.list("")).items == {}
        full = await store.txn([], [Put(f"/{number}", b"") for number in range(MAX_TXN_OPS)])
        assert full.succeeded


async def test_watch_begins_with_what_is_there_and_goes_on_with_whole_revisions(make_store: StoreMaker) -> None:
    async with make_store() as store:
        await store.put("/w/1", b"1")
        async with aclosing(store.watch("/w/")) as changes:
            snapshot = await first_snapshot(changes)
            await store.put("/other", b"")
            done = await store.txn([], [Put("/w/3", b"3"), Put("/w/2", b"2"), Delete("/w/1")])
            events = await next_events(changes)
            found = {key: await store.get(key) for key in ("/w/2", "/w/3")}
    assert list(snapshot.items) == ["/w/1"]
    assert events.revision == done.revision
    assert [(event.kind, event.kv.key) for event in events.events] == [
        (EventKind.PUT, "/w/3"),
        (EventKind.PUT, "/w/2"),
        (EventKind.DELETE, "/w/1"),
    ]
    assert [events.events[1].kv, events.events[0].kv] == list(found.values())
    deleted = events.events[2].kv
    assert (deleted.value, deleted.mod_revision) == (b"", done.revision)


async def test_a_big_revision_is_handed_out_whole(make_store: StoreMaker) -> None:
    """Ten times the size at which etcd cuts a watch answer into fragments when two such revisions wait."""
    async with make_store() as store, parked_watch(store, "/big/") as changes:
        value = b"x" * (MAX_REQUEST_BYTES // 40)
        sizes: list[int] = []
        for _ in range(4):
            await store.txn([], [Put(f"/big/{number}", value) for number in range(36)])
        while sum(sizes) < 4 * 36:
            events = await next_events(changes)
            per_revision = [event.kv.mod_revision for event in events.events]
            assert all(per_revision.count(revision) == 36 for revision in set(per_revision))
            sizes.append(len(events.events))
    assert sum(sizes) == 4 * 36


async def test_a_lease_takes_its_keys_along_in_one_revision(make_store: StoreMaker) -> None:
    async with make_store() as store:
        lease = await store.grant(LONG_TTL_S)
        assert await store.keep_alive(lease) == LONG_TTL_S
        await store.put("/l/b", b"", lease=lease)
        await store.put("/l/a", b"", lease=lease)
        await store.put("/l/freed", b"", lease=lease)
        revision = await store.put("/l/freed", b"")
        async with parked_watch(store, "/l/") as changes:
            await store.revoke(lease)
            events = await next_events(changes)
        assert list((await store.list("/l/")).items) == ["/l/freed"]
    assert events.revision == revision + 1
    assert [event.kv.key for event in events.events] == ["/l/a", "/l/b"]


async def test_a_lease_that_is_gone_is_a_lost_session(make_store: StoreMaker) -> None:
    async with make_store() as store:
        lease = await store.grant(LONG_TTL_S)
        await store.revoke(lease)
        await store.revoke(lease)  # asked for twice: gone is gone
        with pytest.raises(SessionLostError):
            await store.keep_alive(lease)
        with pytest.raises(SessionLostError):
            await store.put("/a", b"", lease=lease)
        with pytest.raises(SessionLostError):
            await store.txn([], [Put("/b", b""), Put("/a", b"", lease)])
        assert not (await store.txn([created_at("/a", 5)], [Put("/a", b"", lease)])).succeeded
        assert (await store.list("")).items == {}


async def test_a_lease_id_is_granted_once(make_store: StoreMaker) -> None:
    async with make_store() as store:
        lease = await store.grant(LONG_TTL_S)
        with pytest.raises(EtcdError):
            await store.grant(LONG_TTL_S, lease)
        await store.revoke(lease)
        assert await store.grant(LONG_TTL_S, lease) == lease
        await store.revoke(lease)


async def test_compaction_forgets_the_past_once(make_store: StoreMaker) -> None:
    async with make_store() as store:
        revision = await store.put("/a", b"")
        await store.compact(revision)
        with pytest.raises(EtcdCompactedError):
            await store.compact(revision)
        with pytest.raises(EtcdError):
            await store.compact(revision + 1000)
        kv = await store.get("/a")
        assert kv is not None and kv.mod_revision == revision


async def test_a_watch_that_is_not_away_goes_on_over_a_compaction(make_store: StoreMaker) -> None:
    async with make_store() as store, parked_watch(store, "/c") as changes:
        seen: list[Event] = []
        for value in (b"1", b"2", b"3"):
            revision = await store.put("/c", value)
            seen += (await next_events(changes)).events
        await store.compact(revision)
        await store.put("/c", b"4")
        seen += (await next_events(changes)).events
    assert [event.kv.value for event in seen] == [b"1", b"2", b"3", b"4"]


async def test_many_watches_hear_only_their_own(make_store: StoreMaker) -> None:
    async with make_store() as store, parked_watch(store, "/x/") as x, parked_watch(store, "/y/") as y:
        await store.put("/x/1", b"x")
        await store.put("/y/1", b"y")
        assert [event.kv.value for event in (await next_events(y)).events] == [b"y"]
        assert [event.kv.value for event in (await next_events(x)).events] == [b"x"]


async def test_status_names_the_cluster(make_store: StoreMaker) -> None:
    async with make_store() as store:
        revision = await store.put("/a", b"")
        status = await store.status()
    assert status.cluster_id != 0
    assert status.revision == revision
    assert status.version.startswith("3.")
