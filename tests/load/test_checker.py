"""Every class of the checker is provoked by a server that misbehaves on purpose."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pytest

from tests.load.checks import Shooter, echo, stream
from tests.load.generator import Aim, Generator
from tests.load.misbehaving import misbehaving_server
from tests.load.outcomes import Record, Report, Verdict, percentile
from tests.load.process import LoadProcess

SHOTS = 5


def shoot(shooter: Shooter, *, deadline_s: float = 5.0, rate_per_s: float = 200, shots: int = SHOTS) -> Report:
    async def run() -> Report:
        async with misbehaving_server() as port:
            aim = Aim("127.0.0.1", port, shooter, rate_per_s, deadline_s, duration_s=shots / rate_per_s)
            return await Generator(aim).run()

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("path", "shooter", "verdict", "reason"),
    [
        ("/echo", echo, Verdict.OK, ""),
        ("/close", echo, Verdict.OK, ""),
        ("/stream", stream, Verdict.OK, ""),
        ("/busy", echo, Verdict.REFUSED, "503"),
        ("/busy429", echo, Verdict.REFUSED, "429"),
        ("/rude", echo, Verdict.FAILED, "without Retry-After"),
        ("/error", echo, Verdict.FAILED, "500"),
        ("/reset", echo, Verdict.FAILED, "closed|reset"),
        ("/short", echo, Verdict.FAILED, "closed"),
        ("/garbage", echo, Verdict.FAILED, "not HTTP"),
        ("/stream-cut", stream, Verdict.FAILED, "closed"),
        ("/foreign", echo, Verdict.WRONG, "foreign nonce"),
        ("/nonsense", echo, Verdict.WRONG, "not an echo"),
        ("/stream-gap", stream, Verdict.WRONG, "line 2"),
        ("/stream-twice", stream, Verdict.WRONG, "line 2"),
        ("/stream-unended", stream, Verdict.WRONG, "last line"),
    ],
)
def test_each_class_is_told(path: str, shooter: Callable[[str], Shooter], verdict: Verdict, reason: str) -> None:
    report = shoot(shooter(path))
    assert report.count(verdict) == SHOTS, report.summary()
    assert all(any(word in record.reason for word in reason.split("|")) for record in report.records), report.summary()
    assert report.lost == (0 if verdict in (Verdict.OK, Verdict.REFUSED) else SHOTS)


def test_a_hang_is_told_after_the_deadline_and_a_second() -> None:
    report = shoot(echo("/hang"), deadline_s=0.2)
    assert report.count(Verdict.HANG) == SHOTS
    assert all(1.1 < record.latency_s < 2.5 for record in report.records)


def test_a_late_answer_does_not_delay_the_next_request() -> None:
    """Open loop: all are sent on time although each takes half a second."""
    report = shoot(echo("/late"), rate_per_s=50, shots=20)
    assert report.ok == 20
    assert max(record.sent_s - record.scheduled_s for record in report.records) < 0.25
    assert report.latency_s(0.5) >= 0.5


def test_nobody_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        aim = Aim("127.0.0.1", unused.getsockname()[1], echo(), 100, 1.0, duration_s=0.05)
        report = asyncio.run(Generator(aim).run())
    assert report.count(Verdict.FAILED) == SHOTS and "connect" in report.records[0].reason


def test_children_report_everything() -> None:
    async def run() -> Report:
        async with misbehaving_server() as port:
            load = LoadProcess(port, rate_per_s=100, path="/echo", processes=2)
            await asyncio.to_thread(load.__enter__)
            await asyncio.sleep(0.5)
            return await asyncio.to_thread(load.stop)

    report = asyncio.run(run())
    assert report.ok == len(report.records) >= 40, report.summary()
    assert report.pids == {7} and len({record.nonce for record in report.records}) == len(report.records)


def test_percentiles_and_gaps() -> None:
    assert percentile([1, 2, 3, 4], 0.5) == 2 and percentile([1, 2, 3, 4], 0.99) == 4
    records = [Record(str(end), 0.0, 0.0, end, Verdict.OK) for end in (0.1, 0.2, 1.2, 1.3)]
    assert Report(records).longest_gap_s() == pytest.approx(1.0)
    assert "lost=0" in Report(records).summary()
