"""Sessions and elections in virtual time, on the fake: who may believe what, and until when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager

import pytest

from serve_rt.aio import ManualClock
from serve_rt.config import protections
from serve_rt.errors import EtcdUnavailableError, FencedError, SessionLostError
from serve_rt.etcd import Delete, Election, Events, Leadership, Put, Session, absent, modified_at
from serve_rt.testing.fake_etcd import FakeEtcd

TTL_S = 10
KEY = "/serve-rt/default/leader"


@asynccontextmanager
async def fake_etcd(timeout_s: float = 5.0) -> AsyncGenerator[tuple[FakeEtcd, ManualClock], None]:
    clock = ManualClock()
    etcd = FakeEtcd(clock=clock, timeout_s=timeout_s)
    try:
        yield etcd, clock
    finally:
        await etcd.close()


async def settle() -> None:
    """Let every task run until it waits for something."""
    for _ in range(50):
        await asyncio.sleep(0)


async def pass_time(clock: ManualClock, seconds: float, step_s: float = 0.25) -> None:
    for _ in range(round(seconds / step_s)):
        clock.advance(step_s)
        await settle()


async def lead(etcd: FakeEtcd, clock: ManualClock, name: bytes = b"a") -> tuple[Session, Leadership]:
    session = await Session.open(etcd, TTL_S, clock=clock)
    return session, await Election(etcd, session, KEY, name).campaign()


async def test_a_session_lives_as_long_as_it_is_renewed() -> None:
    async with fake_etcd() as (etcd, clock):
        session = await Session.open(etcd, TTL_S, clock=clock)
        await etcd.put("/node", b"", lease=session.lease)
        await pass_time(clock, 5 * TTL_S)
        assert session.alive
        assert await etcd.get("/node") is not None
        await session.close()
        assert session.lost.is_set()
        assert await etcd.get("/node") is None


async def test_a_cut_off_session_is_lost_here_before_etcd_ends_it() -> None:
    async with fake_etcd() as (etcd, clock):
        link = etcd.peer()
        session = await Session.open(link, TTL_S, clock=clock)
        await link.put("/node", b"", lease=session.lease)
        link.unavailable = True
        await pass_time(clock, 0.9 * TTL_S - 0.25)
        assert session.alive
        await pass_time(clock, 0.5)
        assert session.lost.is_set()
        assert await etcd.get("/node") is not None, "etcd still has it: nobody can have taken over yet"
        await pass_time(clock, 1.0)
        assert await etcd.get("/node") is None
        await session.close()


async def test_a_lost_session_is_not_renewed_when_etcd_can_be_reached_again() -> None:
    """Found on a frozen etcd: the old leader's keep-alive held the key for ever, and nobody could take over."""
    async with fake_etcd() as (etcd, clock):
        session = await Session.open(etcd, TTL_S, clock=clock)
        await etcd.put("/node", b"", lease=session.lease)
        etcd.stop()
        await pass_time(clock, TTL_S)
        assert session.lost.is_set()
        etcd.start()
        await pass_time(clock, TTL_S + 1)
        assert await etcd.get("/node") is None
        await session.close()


async def test_the_deadline_counts_from_when_the_renewal_was_sent() -> None:
    async with fake_etcd() as (etcd, clock):
        session = await Session.open(etcd, TTL_S, clock=clock)
        await settle()
        etcd.freeze()
        await pass_time(clock, 3.5)  # the renewal leaves after a third of the time
        sent_by = clock.monotonic()
        await pass_time(clock, 1.5)
        etcd.thaw()
        await settle()
        assert session.deadline == sent_by + TTL_S, "renewed, and the time on the wire does not count as ours"
        assert session.alive
        await session.close()


async def test_a_stopped_process_knows_at_once_that_its_session_is_over() -> None:
    """One jump of the clock and no task has run: what SIGSTOP and SIGCONT look like from inside."""
    async with fake_etcd() as (etcd, clock):
        session = await Session.open(etcd, TTL_S, clock=clock)
        clock.advance(TTL_S)
        assert not session.alive
        with pytest.raises(SessionLostError):
            session.check()
        await session.close()


async def test_a_revoked_lease_is_noticed_at_the_next_renewal() -> None:
    async with fake_etcd() as (etcd, clock):
        session = await Session.open(etcd, TTL_S, clock=clock)
        etcd.expire_lease(session.lease)
        await pass_time(clock, TTL_S / 2)
        assert session.lost.is_set()
        await session.close()


async def test_etcd_away_for_long_costs_no_lease_when_it_returns() -> None:
    """The session is lost here, but the lease, and so the registration, outlives the outage."""
    async with fake_etcd() as (etcd, clock):
        lease = await etcd.grant(TTL_S)
        await etcd.put("/node", b"", lease=lease)
        etcd.stop()
        await pass_time(clock, 30)
        with pytest.raises(EtcdUnavailableError):
            await etcd.get("/node")
        etcd.start()
        assert await etcd.get("/node") is not None
        await pass_time(clock, TTL_S + 1)
        assert await etcd.get("/node") is None


async def test_the_second_candidate_leads_when_the_first_resigns() -> None:
    async with fake_etcd() as (etcd, clock):
        first_session, first = await lead(etcd, clock)
        second_session = await Session.open(etcd, TTL_S, clock=clock)
        campaign = asyncio.create_task(Election(etcd, second_session, KEY, b"b").campaign())
        await pass_time(clock, 3 * TTL_S)
        assert not campaign.done()
        await first.resign()
        second = await asyncio.wait_for(campaign, 5)
        assert second.epoch > first.epoch
        kv = await etcd.get(KEY)
        assert kv is not None and (kv.value, kv.create_revision) == (b"b", second.epoch)
        with pytest.raises(FencedError):
            await first.write([Put("/x", b"")])
        await second.resign()
        await first_session.close()
        await second_session.close()


async def test_a_deposed_leader_is_fenced_even_if_its_session_believes_to_live() -> None:
    async with fake_etcd() as (etcd, clock):
        session, leadership = await lead(etcd, clock)
        etcd.expire_lease(session.lease)
        _, successor = await lead(etcd, clock, b"b")
        assert session.alive, "the point of the test: it does not know yet"
        with pytest.raises(FencedError):
            await leadership.write([Put("/x", b"old leader")])
        assert leadership.lost.is_set()
        assert await etcd.get("/x") is None
        assert (await successor.write([Put("/x", b"new leader")])).succeeded


async def test_without_the_fence_a_deposed_leader_does_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protections, "_disabled", lambda: frozenset({"fence"}))
    async with fake_etcd() as (etcd, clock):
        session, leadership = await lead(etcd, clock)
        etcd.expire_lease(session.lease)
        assert (await leadership.write([Put("/x", b"old leader")])).succeeded


async def test_a_leader_whose_session_is_lost_sends_nothing() -> None:
    async with fake_etcd() as (etcd, clock):
        _, leadership = await lead(etcd, clock)
        clock.advance(0.95 * TTL_S)
        with pytest.raises(SessionLostError):
            await leadership.write([Put("/x", b"")])
        await settle()
        assert leadership.lost.is_set()
        assert await etcd.get("/x") is None


async def test_a_write_whose_own_comparison_fails_is_not_fenced() -> None:
    async with fake_etcd() as (etcd, clock):
        _, leadership = await lead(etcd, clock)
        revision = await etcd.put("/x", b"1")
        assert (await leadership.write([Put("/x", b"2")], [modified_at("/x", revision)])).succeeded
        result = await leadership.write([Put("/x", b"3")], [modified_at("/x", revision)], ["/x"])
        assert not result.succeeded
        assert [kv.value for kv in result.found] == [b"2"]
        assert not leadership.lost.is_set()


async def test_an_idle_leader_learns_that_its_key_is_gone() -> None:
    async with fake_etcd() as (etcd, clock):
        _, leadership = await lead(etcd, clock)
        await settle()
        assert not leadership.lost.is_set()
        await etcd.delete(KEY)
        await asyncio.wait_for(leadership.lost.wait(), 5)


async def test_an_idle_leader_learns_that_the_store_was_wiped() -> None:
    async with fake_etcd() as (etcd, clock):
        _, leadership = await lead(etcd, clock)
        await settle()
        etcd.wipe()
        await asyncio.wait_for(leadership.lost.wait(), 5)


async def test_a_win_whose_answer_was_lost_is_found_by_looking() -> None:
    async with fake_etcd() as (etcd, clock):
        session = await Session.open(etcd, TTL_S, clock=clock)
        etcd.drop_replies(1)
        campaign = asyncio.create_task(Election(etcd, session, KEY, b"a").campaign())
        await pass_time(clock, 2)
        leadership = await asyncio.wait_for(campaign, 5)
        kv = await etcd.get(KEY)
        assert kv is not None and kv.version == 1
        assert leadership.epoch == kv.create_revision
        assert (await leadership.write([Put("/x", b"")])).succeeded


async def test_a_campaign_ends_with_its_session() -> None:
    async with fake_etcd() as (etcd, clock):
        await lead(etcd, clock)
        link = etcd.peer()
        session = await Session.open(link, TTL_S, clock=clock)
        campaign = asyncio.create_task(Election(link, session, KEY, b"b").campaign())
        await settle()
        link.unavailable = True
        await pass_time(clock, TTL_S)
        with pytest.raises(SessionLostError):
            await asyncio.wait_for(campaign, 5)


async def test_a_key_that_only_begins_like_the_leader_key_is_another_key() -> None:
    async with fake_etcd() as (etcd, clock):
        await etcd.put(KEY + "2", b"")
        _, leadership = await lead(etcd, clock)
        await etcd.delete(KEY + "2")
        await settle()
        assert not leadership.lost.is_set()


@pytest.mark.parametrize("steps", range(24))
async def test_a_campaign_cancelled_anywhere_leaves_no_task_and_no_key(steps: int) -> None:
    async with fake_etcd() as (etcd, clock):
        tasks_before = asyncio.all_tasks()
        session = await Session.open(etcd, TTL_S, clock=clock)
        campaign = asyncio.create_task(Election(etcd, session, KEY, b"a").campaign())
        for _ in range(steps):
            await asyncio.sleep(0)
        campaign.cancel()
        ended = await asyncio.gather(campaign, return_exceptions=True)
        if isinstance(ended[0], Leadership):
            await ended[0].resign()
        await session.close()
        await settle()
        left = {task.get_name() for task in asyncio.all_tasks() - tasks_before}
        assert {name for name in left if not name.startswith("fake etcd")} == set()
        assert await etcd.get(KEY) is None


# --- the fake's own faults --------------------------------------------------------------------------------------------


async def test_a_lost_answer_says_that_the_write_may_be_done() -> None:
    async with fake_etcd() as (etcd, _):
        etcd.drop_replies(1)
        with pytest.raises(EtcdUnavailableError) as caught:
            await etcd.put("/a", b"1")
        assert caught.value.maybe_applied
        assert await etcd.get("/a") is not None
        assert (await etcd.txn([absent("/b")], [Put("/b", b"")])).succeeded


async def test_a_cut_off_write_says_that_it_was_not_sent() -> None:
    async with fake_etcd() as (etcd, _):
        etcd.unavailable = True
        with pytest.raises(EtcdUnavailableError) as caught:
            await etcd.put("/a", b"1")
        assert not caught.value.maybe_applied
        etcd.unavailable = False
        assert await etcd.get("/a") is None


async def test_a_frozen_call_ends_by_the_clock() -> None:
    async with fake_etcd() as (etcd, clock):
        etcd.freeze()
        write = asyncio.create_task(etcd.put("/a", b"1"))
        await settle()
        assert not write.done()
        clock.advance(5)
        with pytest.raises(EtcdUnavailableError) as caught:
            await write
        assert caught.value.maybe_applied


async def test_a_watch_resumes_after_a_cut_and_lists_again_after_a_compaction() -> None:
    async with fake_etcd() as (etcd, _):
        link = etcd.peer()
        async with aclosing(link.watch("/")) as changes:
            await anext(changes)
            await etcd.put("/a", b"1")
            await anext(changes)
            link.unavailable = True
            await etcd.txn([], [Put("/a", b"2"), Delete("/none")])
            link.unavailable = False
            resumed = await anext(changes)
            assert isinstance(resumed, Events)
            assert [event.kv.value for event in resumed.events] == [b"2"]
            link.unavailable = True
            for value in (b"3", b"4"):
                revision = await etcd.put("/a", value)
            await etcd.compact(revision)
            link.unavailable = False
            listed = await anext(changes)
            assert not isinstance(listed, Events)
            assert listed.items["/a"].value == b"4"
            assert not listed.went_back
            etcd.wipe()
            wiped = await anext(changes)
            assert not isinstance(wiped, Events)
            assert (dict(wiped.items), wiped.went_back) == ({}, True)
