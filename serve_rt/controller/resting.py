"""Applications at rest: for which the last pass had nothing to do, and what that was decided from. Pure values.

Planning an application is a function of its own records, of its replicas, and of the time. When none of that has
changed and its time has not come, it has the same outcome: none. So a pass after one event costs what the event
touches, and gives the same plan as a pass over everything (tests/controller/world.py compares them at each step).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from serve_rt.controller.census import Census
from serve_rt.model.cluster import Cluster
from serve_rt.model.ids import AppName, DeploymentKey


@dataclass(frozen=True, slots=True)
class Rest:
    seen: tuple[object, ...]
    """Everything that planning it looked at, but the room of nodes: who looks at that is not at rest."""
    wake_at: float | None

    def holds(self, seen: tuple[object, ...], now: float) -> bool:
        if self.wake_at is not None and now >= self.wake_at:
            return False
        return len(seen) == len(self.seen) and all(a is b or a == b for a, b in zip(seen, self.seen, strict=True))


@dataclass(frozen=True, slots=True)
class Past:
    """What one pass leaves to the next."""

    cluster: Cluster
    census: Census
    resting: Mapping[AppName, Rest] = field(default_factory=dict)


def seen_of(cluster: Cluster, census: Census, name: AppName, keys: Iterable[DeploymentKey]) -> tuple[object, ...]:
    seen: list[object] = [
        cluster.epoch,
        cluster.incarnation,
        cluster.apps.get(name),
        cluster.served.get(name),
        cluster.versions.get(name),
        cluster.served_since.get(name),
    ]
    for key in keys:
        seen += (
            key,
            cluster.deployments.get(key),
            cluster.routes.get(key),
            cluster.phase_since.get(key),
            cluster.scale_targets.get(key),
            cluster.scale_notes.get(key),
            cluster.tallies.get(key),
            census.members.get(key),
        )
    return tuple(seen)
