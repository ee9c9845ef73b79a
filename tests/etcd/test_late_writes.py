"""A leader's write whose answer did not come, and what may become of it later: never anything after a newer one."""

from __future__ import annotations

import asyncio
import enum

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_rt.config import protections
from serve_rt.errors import EtcdUnavailableError, FencedError
from serve_rt.etcd import Leadership, Put
from tests.etcd.test_session_and_election import KEY, fake_etcd, lead, pass_time, settle


async def test_a_late_write_is_ruled_out_before_the_next_decision() -> None:
    async with fake_etcd(timeout_s=0.02) as (etcd, clock):
        _, leadership = await lead(etcd, clock)
        etcd.delay_writes(1, 5.0)
        with pytest.raises(EtcdUnavailableError):
            await leadership.write([Put("/device", b"given to the first")])
        settled_at = await leadership.settle()
        assert settled_at > leadership.epoch
        assert await leadership.settle() == settled_at, "once is enough"
        assert await etcd.get("/device") is None
        assert (await leadership.write([Put("/device", b"given to the second")])).succeeded
        await pass_time(clock, 6.0)
        kv = await etcd.get("/device")
        assert kv is not None and kv.value == b"given to the second"
        assert not leadership.lost.is_set()


class Wire(enum.Enum):
    FINE = "fine"
    LATE = "late"
    """The write arrives seconds after its writer has given it up."""
    UNHEARD = "unheard"
    """It is applied, and the answer is lost."""


@given(st.lists(st.tuples(st.sampled_from(Wire), st.floats(0.1, 9.0)), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_whatever_the_wire_does_nothing_older_follows_something_newer(days: list[tuple[Wire, float]]) -> None:
    async def story() -> list[bytes]:
        async with fake_etcd(timeout_s=0.002) as (etcd, clock):
            seen: list[bytes] = []
            etcd.on_txn(
                lambda client, compares, then, done: seen.extend(
                    op.value for op in then if done and isinstance(op, Put) and op.key == "/x"
                )
            )
            _, leadership = await lead(etcd, clock)
            for number, (wire, late_s) in enumerate(days):
                etcd.delay_writes(int(wire is Wire.LATE), late_s)
                etcd.drop_replies(int(wire is Wire.UNHEARD))
                try:
                    await leadership.write([Put("/x", b"%03d" % number)])
                except EtcdUnavailableError:
                    await leadership.settle()
                await pass_time(clock, 1.0)
            await pass_time(clock, 10.0)
            return seen

    written = asyncio.run(story())
    assert written == sorted(written)
    told = [b"%03d" % number for number, (wire, _) in enumerate(days) if wire is not Wire.LATE]
    assert set(told) <= set(written)


async def test_without_settling_a_late_write_does_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protections, "_disabled", lambda: frozenset({"settle"}))
    async with fake_etcd(timeout_s=0.02) as (etcd, clock):
        _, leadership = await lead(etcd, clock)
        etcd.delay_writes(1, 5.0)
        with pytest.raises(EtcdUnavailableError):
            await leadership.write([Put("/device", b"given to the first")])
        assert (await leadership.write([Put("/device", b"given to the second")])).succeeded
        await pass_time(clock, 6.0)
        kv = await etcd.get("/device")
        assert kv is not None and kv.value == b"given to the first"


async def test_a_write_that_arrives_before_the_settling_is_seen_by_who_decides_anew() -> None:
    async with fake_etcd() as (etcd, clock):
        _, leadership = await lead(etcd, clock)
        etcd.drop_replies(1)
        with pytest.raises(EtcdUnavailableError):
            await leadership.write([Put("/device", b"given")])
        revision = await leadership.settle()
        kv = await etcd.get("/device")
        assert kv is not None and kv.mod_revision < revision


async def test_what_was_certainly_not_sent_needs_no_settling() -> None:
    async with fake_etcd() as (etcd, clock):
        _, leadership = await lead(etcd, clock)
        etcd.unavailable = True
        with pytest.raises(EtcdUnavailableError):
            await leadership.write([Put("/x", b"")])
        etcd.unavailable = False
        assert await leadership.settle() == leadership.epoch
        assert (await leadership.write([Put("/x", b"")])).succeeded


async def test_a_write_beside_a_settling_is_done_or_said_to_be_undone() -> None:
    async with fake_etcd(timeout_s=0.02) as (etcd, clock):
        _, leadership = await lead(etcd, clock)
        slow = etcd.peer()
        slow.delay_s = lambda: 1.0
        beside = Leadership(slow, leadership._session, KEY, leadership.epoch)  # its write is on the way for a second
        writing = asyncio.create_task(beside.write([Put("/y", b"beside")]))
        await settle()
        etcd.delay_writes(1, 5.0)
        with pytest.raises(EtcdUnavailableError):
            await leadership.write([Put("/x", b"late")])
        await leadership.settle()
        await pass_time(clock, 6.0)
        with pytest.raises(EtcdUnavailableError, match="nothing of this one was written"):
            await writing
        assert await etcd.get("/x") is None and await etcd.get("/y") is None
        slow.delay_s = None
        await beside.settle()
        assert (await beside.write([Put("/y", b"again")])).succeeded


async def test_a_write_that_was_cancelled_is_settled_before_the_next() -> None:
    async with fake_etcd() as (etcd, clock):
        _, leadership = await lead(etcd, clock)
        etcd.delay_writes(1, 5.0)
        writing = asyncio.create_task(leadership.write([Put("/x", b"late")]))
        await settle()
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        assert (await leadership.write([Put("/x", b"new")])).succeeded
        await pass_time(clock, 6.0)
        kv = await etcd.get("/x")
        assert kv is not None and kv.value == b"new"


async def test_a_settling_whose_own_answer_is_lost_or_late_is_repeated() -> None:
    async with fake_etcd(timeout_s=0.02) as (etcd, clock):
        _, leadership = await lead(etcd, clock)
        etcd.delay_writes(2, 5.0)  # the write and the first settling
        for attempt in (leadership.write([Put("/x", b"late")]), leadership.settle()):
            with pytest.raises(EtcdUnavailableError):
                await attempt
        etcd.drop_replies(1)
        with pytest.raises(EtcdUnavailableError):
            await leadership.settle()
        await leadership.settle()
        assert (await leadership.write([Put("/x", b"new")])).succeeded
        await pass_time(clock, 6.0)
        kv = await etcd.get("/x")
        assert kv is not None and kv.value == b"new"
        assert (await leadership.write([Put("/x", b"newer")])).succeeded, "the late settling changed nothing"


async def test_who_is_deposed_in_between_settles_nothing() -> None:
    async with fake_etcd() as (etcd, clock):
        session, leadership = await lead(etcd, clock)
        etcd.drop_replies(1)
        with pytest.raises(EtcdUnavailableError):
            await leadership.write([Put("/x", b"")])
        etcd.expire_lease(session.lease)
        _, successor = await lead(etcd, clock, b"b")
        with pytest.raises(FencedError):
            await leadership.settle()
        assert leadership.lost.is_set() and (await successor.write([Put("/x", b"")])).succeeded


async def test_a_leader_key_that_somebody_else_wrote_is_settled_first() -> None:
    async with fake_etcd() as (etcd, clock):
        session, leadership = await lead(etcd, clock)
        await etcd.put(KEY, b"by hand", lease=session.lease)
        with pytest.raises(EtcdUnavailableError, match="nothing of this one was written"):
            await leadership.write([Put("/x", b"")])
        await leadership.settle()
        assert (await leadership.write([Put("/x", b"")])).succeeded
