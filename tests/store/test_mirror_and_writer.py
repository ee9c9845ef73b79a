"""The mirror follows whatever the store does; an agent writes only while its registration is its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from serve_rt.aio import TaskOwner
from serve_rt.errors import DeadlineExceededError, SessionLostError
from serve_rt.etcd import Keys
from serve_rt.model.cluster import Cluster
from serve_rt.model.ids import BlobDigest, NodeId, ReplicaId
from serve_rt.model.node import NodeRecord
from serve_rt.model.replica import Observed, ReplicaState
from serve_rt.model.resources import NodeResources
from serve_rt.store.mirror import Mirror
from serve_rt.store.writer import NodeWriter
from serve_rt.testing.fake_etcd import FakeEtcd

KEYS = Keys("test")
NODE = NodeRecord(NodeId("n"), "n:1", "s", "boot", NodeResources(1000, 1 << 30))
OBSERVED = Observed(ReplicaId("a#d#aaaaaa"), NodeId("n"), "s", ReplicaState.READY)


@asynccontextmanager
async def following() -> AsyncGenerator[tuple[FakeEtcd, Mirror], None]:
    store = FakeEtcd()
    mirror, tasks = Mirror(store, KEYS), TaskOwner("test")
    tasks.start_eternal(mirror.run(), name="mirror")
    try:
        yield store, mirror
    finally:
        await tasks.close()
        await store.close()


async def writer(store: FakeEtcd) -> NodeWriter:
    return NodeWriter(store, KEYS, NodeId("n"), await store.grant(60))


async def test_changes_are_seen_and_told() -> None:
    async with following() as (store, mirror):
        told: list[Cluster] = []
        end = mirror.subscribe(told.append)
        pen = await writer(store)
        registered = await pen.register(NODE)
        await mirror.wait_for(lambda c: c.revision >= registered.revision, 5)
        assert told and told[-1].nodes == {"n": NODE} and mirror.age_s < 5
        end()
        count = len(told)
        await mirror.wait_for(lambda c: c.revision >= registered.revision, 5)
        await pen.update(replace(NODE, pid=7))
        await mirror.wait_for(lambda c: c.nodes[NodeId("n")].pid == 7, 5)
        assert len(told) == count


async def test_the_last_value_stays_while_the_store_is_away_and_a_wiped_store_is_believed() -> None:
    async with following() as (store, mirror):
        await (await writer(store)).register(NODE)
        await mirror.wait_for(lambda c: bool(c.nodes), 5)
        store.stop()
        assert mirror.cluster.nodes
        store.start()
        store.wipe()
        await mirror.wait_for(lambda c: not c.nodes, 5)


async def test_waiting_ends_in_time_and_says_where_the_store_is() -> None:
    async with following() as (_, mirror):
        with pytest.raises(DeadlineExceededError, match="revision"):
            await mirror.wait_for(lambda _: False, 0.05)


async def test_a_waiter_that_is_cancelled_leaves_nothing() -> None:
    async with following() as (_, mirror):
        waiter = asyncio.create_task(mirror.wait_for(lambda _: False, 60))
        await mirror.wait_for(lambda _: True, 5)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        assert not mirror._waiting


async def test_a_node_id_is_registered_once_and_taken_over_only_by_name() -> None:
    store = FakeEtcd()
    first, second = await writer(store), await writer(store)
    assert (await first.register(NODE)).won
    lost = await second.register(replace(NODE, session="t"))
    assert not lost.won and lost.holder is not None
    assert lost.holder_record() == NODE and lost.holder.lease == first.lease
    assert (await second.register(replace(NODE, session="t"), over_lease=lost.holder.lease)).won
    with pytest.raises(SessionLostError):
        await first.observe([OBSERVED])
    assert await store.get(KEYS.observed(NodeId("n"), OBSERVED.replica_id)) is None
    await store.close()


async def test_what_an_agent_says_is_written_whole_and_taken_back() -> None:
    store = FakeEtcd()
    pen = await writer(store)
    await pen.register(NODE)
    many = [replace(OBSERVED, replica_id=ReplicaId(f"a#d#{n:06}")) for n in range(300)]
    await pen.observe(many)
    assert len((await store.list(KEYS.observed_prefix(NodeId("n")))).items) == 300
    await pen.observe([], [o.replica_id for o in many[:299]])
    await pen.hold_blobs([BlobDigest("00"), BlobDigest("11")])
    await pen.hold_blobs([], [BlobDigest("11")])
    left = [key.removeprefix(KEYS.all) for key in (await store.list(KEYS.all)).items]
    assert left == ["blobs/00/n", "nodes/n", "observed/n/a#d#000299"]
    await pen.leave()
    assert [*(await store.list(KEYS.all)).items] == [KEYS.blob(BlobDigest("00"), NodeId("n"))]
    await store.close()
