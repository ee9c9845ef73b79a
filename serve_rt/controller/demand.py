"""What the reporters say of the demand, kept over the look-back period. Values and arithmetic; no clock, no I/O.

`push` hears it from the agents (each sums nothing: one reading per reporter), `scaling` keeps a `Series` per deployment
and asks it for the aggregate. Demand is a level: a reading stands until the next one, and a reporter without demand
says so once and then nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from serve_rt.model.ids import AppName, DeploymentKey, DeploymentName, ReplicaId, VersionId
from serve_rt.model.tally import Tally, together
from serve_rt.pb import control_pb2 as pb

SILENT_S = 3.0
"""Whoever had demand repeats it each second: after so long something is wrong with it."""
COALESCED_S = 0.05
MAX_POINTS = 4096


@dataclass(frozen=True, slots=True)
class Counts:
    """Requests of one deployment: without a slot, and sent to a replica but not ended."""

    queued: int = 0
    ongoing: int = 0

    @property
    def total(self) -> int:
        return self.queued + self.ongoing

    def plus(self, queued: int, ongoing: int) -> Counts:
        return Counts(self.queued + queued, self.ongoing + ongoing)


@dataclass(frozen=True, slots=True)
class NodeDemand:
    """One agent's last word about the reporters of its node."""

    counts: Mapping[DeploymentKey, Counts] = field(default_factory=dict)
    complete: bool = False
    """The agent has listened long enough, and no reporter with demand has fallen silent."""
    heard_at: float = 0.0
    tallies: Mapping[DeploymentKey, Mapping[VersionId, Tally]] = field(default_factory=dict)
    """How the requests of guarded deployments go on this node."""
    stats: Mapping[ReplicaId, Mapping[str, float]] = field(default_factory=dict)
    """What `record_autoscaling_stats` of its replicas said last."""


def read_report(report: pb.AssignReport, now: float) -> NodeDemand:
    counts: dict[DeploymentKey, Counts] = {}
    for reading in report.demand:
        for entry in reading.entries:
            key = DeploymentKey(AppName(entry.app), DeploymentName(entry.deployment))
            counts[key] = counts.get(key, Counts()).plus(entry.queued, entry.ongoing)
    complete = report.demand_complete and all(reading.age_ms <= SILENT_S * 1000 for reading in report.demand)
    stats = {ReplicaId(one.replica_id): dict(one.values) for one in report.stats}
    return NodeDemand(counts, complete, now, _tallies(report), stats)


def _tallies(report: pb.AssignReport) -> dict[DeploymentKey, dict[VersionId, Tally]]:
    seen: dict[DeploymentKey, dict[VersionId, list[Tally]]] = {}
    for reading in report.demand:
        for one in reading.tallies:
            key = DeploymentKey(AppName(one.app), DeploymentName(one.deployment))
            tally = Tally(one.answered, one.errors, tuple(one.latencies))
            seen.setdefault(key, {}).setdefault(VersionId(one.version), []).append(tally)
    return {key: {version: together(some) for version, some in of.items()} for key, of in seen.items()}


def all_tallies(words: Iterable[NodeDemand]) -> dict[DeploymentKey, dict[VersionId, Tally]]:
    """What all nodes together have seen."""
    seen: dict[DeploymentKey, dict[VersionId, list[Tally]]] = {}
    for word in words:
        for key, versions in word.tallies.items():
            for version, tally in versions.items():
                seen.setdefault(key, {}).setdefault(version, []).append(tally)
    return {key: {version: together(some) for version, some in of.items()} for key, of in seen.items()}


def all_heard(words: Iterable[NodeDemand | None], now: float) -> bool:
    """Every registered agent speaks, now, and knows all its reporters."""
    return all(word is not None and word.complete and now - word.heard_at <= SILENT_S for word in words)


class Series:
    """The demand of one deployment as a step function of time, as long as the look-back period."""

    def __init__(self, now: float, value: float = 0.0) -> None:
        self._points: deque[tuple[float, float]] = deque([(now, value)])

    @property
    def latest(self) -> float:
        return self._points[-1][1]

    def points(self, count: int) -> list[tuple[float, float]]:
        """The last `count` changes, each with its time."""
        return list(self._points)[-count:]

    def note(self, value: float, now: float) -> None:
        at, last = self._points[-1]
        if value == last:
            return
        if now - at < COALESCED_S and len(self._points) > 1:
            self._points[-1] = (at, value)
        else:
            self._points.append((now, value))

    def aggregate(self, function: str, look_back_s: float, now: float) -> float:
        """`mean` weighs by time; `max` and `min` look at every level within the period."""
        begin = now - look_back_s
        while len(self._points) > MAX_POINTS or (len(self._points) > 1 and self._points[1][0] <= begin):
            self._points.popleft()
        levels = [value for _, value in self._points]
        if function != "mean":
            return max(levels) if function == "max" else min(levels)
        starts = [max(begin, at) for at, _ in self._points]
        ends = [*starts[1:], max(now, starts[-1] + 1e-3)]
        area = sum(value * (end - start) for value, start, end in zip(levels, starts, ends, strict=True))
        return area / (ends[-1] - starts[0])


class Peak:
    """The highest of the values noted within a period."""

    def __init__(self) -> None:
        self._falling: deque[tuple[float, float]] = deque()

    def note(self, value: float, period_s: float, now: float) -> float:
        """Take in `value`; the highest since `now - period_s`."""
        while self._falling and self._falling[-1][1] <= value:
            self._falling.pop()
        self._falling.append((now, value))
        while self._falling[0][0] < now - period_s:
            self._falling.popleft()
        return self.highest

    @property
    def highest(self) -> float:
        return self._falling[0][1] if self._falling else 0.0
