"""A real etcd is killed, frozen, wiped, and its link cut: what the client promises then."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager

import pytest

from serve_rt.errors import EtcdUnavailableError, FencedError, SessionLostError
from serve_rt.etcd import Election, EtcdClient, Events, Leadership, Put, Session, Snapshot, absent
from serve_rt.etcd.messages import PutRequest
from serve_rt.etcd.rpc import PUT, RANGE, Method
from tests.etcd.etcd_server import EtcdServer
from tests.etcd.link import link_to

KEY = "/serve-rt/default/leader"


@asynccontextmanager
async def client_of(
    *endpoints: str, timeout_s: float = 10.0, silence_s: float = 8.0
) -> AsyncGenerator[EtcdClient, None]:
    client = EtcdClient(endpoints, timeout_s=timeout_s, silence_s=silence_s)
    try:
        yield client
    finally:
        await client.close()


class Reader:
    """Follows a prefix and keeps what it was told."""

    def __init__(self, client: EtcdClient, prefix: str) -> None:
        self._client = client
        self._prefix = prefix
        self.snapshots: list[Snapshot] = []
        self.events: list[Events] = []
        self._told = asyncio.Event()

    @asynccontextmanager
    async def following(self) -> AsyncGenerator[Reader, None]:
        task = asyncio.create_task(self._follow())
        try:
            await self.until(lambda: bool(self.snapshots))
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _follow(self) -> None:
        async with aclosing(self._client.watch(self._prefix)) as changes:
            async for change in changes:
                if isinstance(change, Snapshot):
                    self.snapshots.append(change)
                else:
                    self.events.append(change)
                self._told.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds():
                self._told.clear()
                await self._told.wait()

    @property
    def values(self) -> list[bytes]:
        return [event.kv.value for events in self.events for event in events.events]


async def put_once(client: EtcdClient, key: str, value: bytes) -> None:
    """As a careful writer does it: an unanswered write is looked up before it is repeated."""
    while True:
        try:
            await client.put(key, value)
            return
        except EtcdUnavailableError as error:
            if error.maybe_applied and (kv := await client.get(key)) is not None and kv.value == value:
                return


async def test_a_watch_outlives_kill_9_without_loss_or_duplicate(own_etcd: EtcdServer) -> None:
    await own_etcd.start()
    async with (
        client_of(own_etcd.endpoint) as client,
        client_of(own_etcd.endpoint) as other,
        Reader(client, "/n").following() as reader,
    ):
        for number in range(90):
            if number in (30, 60):
                own_etcd.kill()
                own_etcd.spawn()
            await put_once(other, "/n", b"%d" % number)
        await reader.until(lambda: b"89" in reader.values)
    assert reader.values == [b"%d" % number for number in range(90)]
    assert len(reader.snapshots) == 1, "resumed, not listed again"


async def test_a_write_under_way_at_kill_9_is_maybe_applied(own_etcd: EtcdServer) -> None:
    await own_etcd.start()
    async with link_to(own_etcd.endpoint) as link, client_of(link.endpoint, timeout_s=2) as client:
        await client.put("/a", b"1")
        own_etcd.freeze()
        asked_bytes, long = link.asked_bytes, b"2" * 1000
        write = asyncio.create_task(client.put("/a", long))
        async with asyncio.timeout(10):
            while link.asked_bytes < asked_bytes + len(long):  # noqa: ASYNC110  # it must be on its way
                await asyncio.sleep(0.005)
        own_etcd.kill()
        with pytest.raises(EtcdUnavailableError) as caught:
            await write
        assert caught.value.maybe_applied
        await link.cut()
        async with asyncio.timeout(10):
            while caught.value.maybe_applied:  # until the client knows that its connection is gone
                with pytest.raises(EtcdUnavailableError) as caught:
                    await client.put("/a", b"3")


async def test_a_lost_answer_does_not_make_the_write_happen_twice(shared_etcd: EtcdServer) -> None:
    async with link_to(shared_etcd.endpoint) as link, client_of(link.endpoint, timeout_s=2) as client:
        await client.delete("/once")
        link.answers_pass = False
        with pytest.raises(EtcdUnavailableError) as caught:
            await client.put("/once", b"")
        assert caught.value.maybe_applied
        async with client_of(shared_etcd.endpoint) as other:
            kv = await other.get("/once")
        assert kv is not None and kv.version == 1


async def test_a_frozen_etcd_loses_the_session_here_first_and_fences_later(own_etcd: EtcdServer) -> None:
    ttl_s = 3
    await own_etcd.start()
    async with client_of(own_etcd.endpoint, timeout_s=2) as client, client_of(own_etcd.endpoint) as other:
        session = await Session.open(client, ttl_s)
        leadership = await Election(client, session, KEY, b"first").campaign()
        own_etcd.freeze()
        frozen_at = time.monotonic()
        async with asyncio.timeout(ttl_s + 1):
            await leadership.lost.wait()
        assert time.monotonic() - frozen_at < ttl_s, "lost here before the lease can have ended there"
        own_etcd.thaw()
        with pytest.raises(SessionLostError):
            await leadership.write([Put("/x", b"late")])

        second_session = await Session.open(other, ttl_s)
        second = await Election(other, second_session, KEY, b"second").campaign()
        assert second.epoch > leadership.epoch
        believer = Leadership(other, second_session, KEY, leadership.epoch)  # it sends, as one that knows nothing
        with pytest.raises(FencedError):
            await believer.write([Put("/x", b"late")])
        assert await other.get("/x") is None
        assert (await second.write([Put("/x", b"now")])).succeeded
        for each in (believer, second, leadership):
            await each.resign()
        await session.close()
        await second_session.close()


@pytest.mark.parametrize("token", ["new", "same"])
async def test_a_wiped_store_is_noticed(token: str) -> None:
    """With a new cluster id by the id, with the same one (an external etcd wiped by hand) by its revision."""
    extra = ("--initial-cluster-token=same",) if token == "same" else ()
    server = EtcdServer(extra=extra)
    try:
        await server.start()
        async with client_of(server.endpoint) as client:
            for number in range(10):
                await client.put("/a", b"%d" % number)
            before = (await client.status()).cluster_id
            async with Reader(client, "/").following() as reader:
                server.kill()
                server.wipe()
                await server.start()
                await client.put("/b", b"new")
                await reader.until(lambda: any(snapshot.went_back for snapshot in reader.snapshots))
                await reader.until(lambda: "/b" in reader.snapshots[-1].items or b"new" in reader.values)
            assert ((await client.status()).cluster_id == before) is (token == "same")
    finally:
        server.close()
    assert [snapshot.went_back for snapshot in reader.snapshots] == [False, True]
    assert "/a" not in reader.snapshots[-1].items


async def test_a_wiped_store_that_ran_ahead_is_noticed_by_its_cluster_id(own_etcd: EtcdServer) -> None:
    """Its revision is higher than ours when we see it again: by revisions alone it would pass for the same store."""
    await own_etcd.start()
    async with (
        link_to(own_etcd.endpoint) as link,
        client_of(link.endpoint) as client,
        Reader(client, "/").following() as reader,
    ):
        await link.cut()
        own_etcd.kill()
        own_etcd.wipe()
        await own_etcd.start()
        async with client_of(own_etcd.endpoint) as other:
            for number in range(10):
                await other.put("/new", b"%d" % number)
        await link.mend()
        await reader.until(lambda: len(reader.snapshots) == 2)
    assert reader.snapshots[1].went_back
    assert reader.snapshots[1].items["/new"].value == b"9"
    assert reader.values == []


async def test_compaction_while_the_watcher_is_away_lists_again(shared_etcd: EtcdServer) -> None:
    async with (
        link_to(shared_etcd.endpoint) as link,
        client_of(link.endpoint) as client,
        client_of(shared_etcd.endpoint) as other,
    ):
        await other.put("/away/a", b"0")
        async with Reader(client, "/away/").following() as reader:
            await link.cut()
            for number in (1, 2, 3):
                revision = await other.put("/away/a", b"%d" % number)
            await other.compact(revision)
            await link.mend()
            await reader.until(lambda: len(reader.snapshots) == 2)
            await other.put("/away/a", b"4")
            await reader.until(lambda: b"4" in reader.values)
    assert reader.snapshots[1].items["/away/a"].value == b"3"
    assert not reader.snapshots[1].went_back
    assert reader.values == [b"4"]


async def test_a_cut_link_without_compaction_resumes(shared_etcd: EtcdServer) -> None:
    async with (
        link_to(shared_etcd.endpoint) as link,
        client_of(link.endpoint) as client,
        client_of(shared_etcd.endpoint) as other,
        Reader(client, "/cut/").following() as reader,
    ):
        await other.put("/cut/a", b"0")
        await reader.until(lambda: b"0" in reader.values)
        await link.cut()
        await other.put("/cut/a", b"1")
        await link.mend()
        await reader.until(lambda: b"1" in reader.values)
    assert reader.values == [b"0", b"1"]
    assert len(reader.snapshots) == 1


async def test_a_watch_on_a_half_open_link_moves_to_another_endpoint(shared_etcd: EtcdServer) -> None:
    async with (
        link_to(shared_etcd.endpoint) as link,
        client_of(shared_etcd.endpoint) as other,
        client_of(link.endpoint, shared_etcd.endpoint, silence_s=0.6) as client,
    ):
        client._rpc._turn = 0  # begin on the link
        async with Reader(client, "/half/").following() as reader:
            await other.put("/half/a", b"0")
            await reader.until(lambda: b"0" in reader.values)
            assert link.connections == 1
            link.hang()
            await other.put("/half/a", b"1")
            async with asyncio.timeout(5):  # gRPC's own keepalive would take 15 s
                await reader.until(lambda: b"1" in reader.values)
    assert reader.values == [b"0", b"1"]


async def test_a_silent_watch_is_asked_and_kept(shared_etcd: EtcdServer) -> None:
    """Nothing happens for many times the limit: the server answers, so the one stream lives on."""
    async with (
        link_to(shared_etcd.endpoint) as link,
        client_of(link.endpoint, silence_s=0.2) as client,
        Reader(client, "/quiet/").following() as reader,
    ):
        streams = _count_watches(client)
        await asyncio.sleep(1.0)  # the silence is what is tested
        await client.put("/quiet/a", b"0")
        await reader.until(lambda: b"0" in reader.values)
        assert streams() <= 1
        assert link.connections == 1


def _count_watches(client: EtcdClient) -> Callable[[], int]:
    opened = 0
    original = client._rpc.open_watch

    async def counting(endpoint: object) -> object:
        nonlocal opened
        opened += 1
        return await original(endpoint)  # type: ignore[arg-type]  # passed through as it came

    client._rpc.open_watch = counting  # type: ignore[method-assign]  # to count, not to change
    return lambda: opened


async def test_a_polite_stop_hands_over_at_once(shared_etcd: EtcdServer) -> None:
    async with client_of(shared_etcd.endpoint) as one, client_of(shared_etcd.endpoint) as two:
        await one.delete(KEY)
        first_session, second_session = await Session.open(one, 10), await Session.open(two, 10)
        first = await Election(one, first_session, KEY, b"1").campaign()
        campaign = asyncio.create_task(Election(two, second_session, KEY, b"2").campaign())
        done, _ = await asyncio.wait({campaign}, timeout=0.3)
        assert not done, "one leader at a time"
        began = time.monotonic()
        await first.resign()
        second = await asyncio.wait_for(campaign, 5)
        assert time.monotonic() - began < 0.5
        assert second.epoch > first.epoch
        await second.resign()
        await first_session.close()
        await second_session.close()


async def test_a_dead_endpoint_is_passed_over(shared_etcd: EtcdServer) -> None:
    with socket.socket() as held:  # bound and not listening: nobody answers there
        held.bind(("127.0.0.1", 0))
        dead = f"127.0.0.1:{held.getsockname()[1]}"
        for turn in (0, 1):
            async with client_of(dead, shared_etcd.endpoint) as client:
                client._rpc._turn = turn
                await client.delete("/dead/", prefix=True)
                async with Reader(client, "/dead/").following() as reader:
                    result = await client.txn([absent("/dead/a")], [Put("/dead/a", b"1")])
                    assert result.succeeded
                    await reader.until(lambda reader=reader: b"1" in reader.values)  # type: ignore[misc]  # bound now


async def test_a_closed_client_says_so(shared_etcd: EtcdServer) -> None:
    async with link_to(shared_etcd.endpoint) as link:
        client = EtcdClient([link.endpoint])
        await client.get("/a")
        link.hang()
        read = asyncio.create_task(client.get("/a"))
        following = asyncio.create_task(anext(client.watch("/a")))
        await asyncio.sleep(0.05)
        await client.close()
        for task in (read, following):
            with pytest.raises(EtcdUnavailableError):
                await asyncio.wait_for(task, 5)


async def test_pages_of_a_listing_are_of_one_moment(shared_etcd: EtcdServer) -> None:
    """A write between two pages belongs to neither."""
    client = EtcdClient([shared_etcd.endpoint], page_keys=2)
    try:
        await client.delete("/pages/", prefix=True)
        for name in "abcde":
            await client.put(f"/pages/{name}", b"before")
        pages = 0
        original = client._rpc.call

        async def call_and_disturb(method: Method, request: object, timeout_s: float | None = None) -> object:
            nonlocal pages
            answer = await original(method, request, timeout_s)
            if method is RANGE:
                pages += 1
                await original(PUT, PutRequest(key=b"/pages/d", value=b"after"))
                await original(PUT, PutRequest(key=b"/pages/f%d" % pages, value=b"after"))
            return answer

        client._rpc.call = call_and_disturb  # type: ignore[method-assign]  # writes where no test could otherwise
        snapshot = await client.list("/pages/")
    finally:
        await client.close()
    assert pages == 3
    assert [(kv.key[-1], kv.value) for kv in snapshot.items.values()] == [(name, b"before") for name in "abcde"]
