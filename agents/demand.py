"""What the proxies and handles of this node say of their demand, for the leader's autoscaler.

One reading per reporter, the last one; it is repeated each second while it is not zero. A reporter is known by the name
it subscribed to the feed with: when its stream ends, its reading stands for a moment longer (it may only be
reconnecting) and is dropped then. Called by `api_server`; the readings leave on the leader's Assign stream.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass

from serve_rt.pb import control_pb2 as pb

COMPLETE_AFTER_S = 5.0
"""After our start every reporter has found us by now and has said what it sees."""
DROPPED_AFTER_S = 3.0
MAX_REPORTERS = 4096


@dataclass(slots=True)
class _Reading:
    report: pb.DemandReport
    at: float


class DemandBook:
    def __init__(self, now: float) -> None:
        self._began = now
        self._readings: dict[str, _Reading] = {}
        self._streams: Counter[str] = Counter()
        self._left_at: dict[str, float] = {}
        self._news = asyncio.Event()

    def joined(self, reporter: str) -> None:
        """Its reading of a former stream is dropped all the same unless it is repeated."""
        self._streams[reporter] += 1

    def left(self, reporter: str, now: float) -> None:
        self._streams[reporter] -= 1
        if self._streams[reporter] <= 0:
            del self._streams[reporter]
            if reporter in self._readings:
                self._left_at[reporter] = now

    def take(self, report: pb.DemandReport, now: float) -> None:
        """A reading; one that was overtaken by a later one is dropped."""
        reporter, before = report.reporter, self._readings.get(report.reporter)
        if before is not None and report.seq <= before.report.seq:
            return
        if before is None and len(self._readings) >= MAX_REPORTERS:
            self._drop_the_gone(now)
        if before is None and (not _says_something(report) or len(self._readings) >= MAX_REPORTERS):
            return
        self._readings[reporter] = _Reading(report, now)
        if reporter in self._streams:
            self._left_at.pop(reporter, None)
        else:
            self._left_at[reporter] = now  # its feed comes from elsewhere, or has just ended
        if before is None or _keys(before.report) != _keys(report) or before.report.tallies != report.tallies:
            self._tell()

    def readings(self, now: float) -> list[pb.DemandReport]:
        """Those with demand, each with its age."""
        self._drop_the_gone(now)
        told = []
        for reading in self._readings.values():
            if _says_something(reading.report):
                reading.report.age_ms = max(0, int((now - reading.at) * 1000))
                told.append(reading.report)
        return told

    def complete(self, now: float) -> bool:
        return now - self._began >= COMPLETE_AFTER_S

    async def news(self) -> AsyncIterator[None]:
        """One item when a reporter's demand comes from or goes to zero; several changes may be one."""
        while True:
            news = self._news
            yield
            await news.wait()

    def _drop_the_gone(self, now: float) -> None:
        for reporter in [name for name, at in self._left_at.items() if now - at > DROPPED_AFTER_S]:
            del self._left_at[reporter]
            self._readings.pop(reporter, None)

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()


def _says_something(report: pb.DemandReport) -> bool:
    return bool(report.entries or report.tallies)


def _keys(report: pb.DemandReport) -> frozenset[tuple[str, str]]:
    return frozenset((entry.app, entry.deployment) for entry in report.entries)
