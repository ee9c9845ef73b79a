"""The last minutes as points, one a second, for the plots. A ring with numbers: a page asks for what is newer."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from serve_rt.dashboard.counted import Counted, Traffic, traffic_between
from serve_rt.model.ids import AppName, DeploymentKey, DeploymentName
from serve_rt.model.scaling import ScalingOverview
from serve_rt.model.status import ServeStatus

KEPT = 900
"""Points: a quarter of an hour."""
WINDOW_S = 5.0
"""Rates are those of so long before a point: proxy workers tell their counts once a second."""


@dataclass(frozen=True, slots=True)
class DeploymentPoint:
    running: int
    others: int
    """Replicas that start, stop or are ill."""
    target: int | None
    """Of the autoscaler; None for a fixed number."""
    queued: float
    ongoing: float


@dataclass(frozen=True, slots=True)
class Point:
    number: int
    at_s: float
    """Time of day."""
    applications: Mapping[str, Traffic] = field(default_factory=dict)
    deployments: Mapping[str, DeploymentPoint] = field(default_factory=dict)
    """By `<app>#<deployment>`."""


@dataclass(frozen=True, slots=True)
class _Reading:
    at_s: float
    """Monotonic."""
    counted: Counted


class History:
    def __init__(self) -> None:
        self._points: deque[Point] = deque(maxlen=KEPT)
        self._readings: deque[_Reading] = deque()
        self._number = 0

    def add(
        self, status: ServeStatus, scaling: ScalingOverview, counted: Counted, *, now_s: float, wall_s: float
    ) -> Point:
        self._number += 1
        traffic: dict[str, Traffic] = {}
        while len(self._readings) > 1 and self._readings[1].at_s <= now_s - WINDOW_S:
            self._readings.popleft()
        if self._readings and now_s > self._readings[0].at_s:
            before = self._readings[0]
            traffic = traffic_between(before.counted, counted, now_s - before.at_s)
        self._readings.append(_Reading(now_s, counted))
        point = Point(self._number, wall_s, traffic, _deployments(status, scaling, counted))
        self._points.append(point)
        return point

    def after(self, number: int) -> list[Point]:
        """The points newer than `number`; 0: all there are."""
        return [point for point in self._points if point.number > number]


def _deployments(status: ServeStatus, scaling: ScalingOverview, counted: Counted) -> dict[str, DeploymentPoint]:
    scaled = {(one.app, one.deployment): one for one in scaling.deployments}
    points = {}
    for app, overview in status.applications.items():
        for name, one in overview.deployments.items():
            running = one.replica_states.get("RUNNING", 0)
            others = sum(one.replica_states.values()) - running
            auto = scaled.get((app, name))
            asked = counted.demand.get(DeploymentKey(AppName(app), DeploymentName(name)))
            points[f"{app}#{name}"] = DeploymentPoint(
                running,
                others,
                auto.target if auto is not None else None,
                auto.queued if auto is not None else asked.queued if asked is not None else 0.0,
                auto.ongoing if auto is not None else asked.ongoing if asked is not None else 0.0,
            )
    return points
