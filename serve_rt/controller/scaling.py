"""The autoscaler's memory during one term of leadership: demand over time, and timers. No clock, no I/O of its own.

`loop` asks `look` whether a target should change (each half second, and at once when an agent reports new demand) and
gives the answer to `reconcile` as `Cluster.scale_targets`; the decision itself is `autoscale.desired`. The target is
saved with the deployment; demand and timers are not: the next leader hears the demand within a second, may raise a
target at once, and lowers none before it has looked back for one whole period.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from serve_rt.controller.autoscale import Demand, Timer, desired
from serve_rt.controller.demand import NodeDemand, Peak, Series, all_heard
from serve_rt.controller.rollout import replicas_wanted, rescale
from serve_rt.model.cluster import Cluster, DeploymentMemory
from serve_rt.model.ids import DeploymentKey, NodeId
from serve_rt.model.spec import AutoscalingOptions

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Watched:
    series: Series
    peak: Peak = field(default_factory=Peak)
    timer: Timer = field(default_factory=Timer)
    said: tuple[int, int] = (0, 0)


class Scaling:
    """Made when a term begins."""

    def __init__(self, now: float) -> None:
        self._since = now
        self._watched: dict[DeploymentKey, _Watched] = {}

    def look(self, cluster: Cluster, words: Mapping[NodeId, NodeDemand], now: float) -> dict[DeploymentKey, int]:
        """Targets that should change. Asked twice at one time the answer is the same."""
        heard = all_heard((words.get(node) for node in cluster.nodes), now)
        targets: dict[DeploymentKey, int] = {}
        scaled = {
            key: (memory, options)
            for key, memory in cluster.deployments.items()
            if (options := memory.target.options.autoscaling) is not None
        }
        for key, (memory, options) in scaled.items():
            watched = self._watched.setdefault(key, _Watched(Series(now)))
            watched.series.note(sum(word.counts.get(key, 0) for node, word in words.items()), now)
            complete = heard and now - self._since >= options.look_back_period_s
            target = self._decide(cluster, memory, options, watched, complete, now)
            if target is not None:
                targets[key] = target
        for gone in self._watched.keys() - scaled.keys():
            del self._watched[gone]
        return targets

    def _decide(
        self,
        cluster: Cluster,
        memory: DeploymentMemory,
        options: AutoscalingOptions,
        watched: _Watched,
        complete: bool,
        now: float,
    ) -> int | None:
        total = watched.series.aggregate(options.aggregation_function, options.look_back_period_s, now)
        peak = watched.peak.note(total, options.look_back_period_s, now)
        demand = Demand(total, watched.series.latest, peak, complete)
        before, running = replicas_wanted(memory), _running(cluster, memory.key)
        decision = desired(options, demand, running, before, watched.timer, now)
        watched.timer = decision.timer
        if rescale(memory, decision.target, 0.0) is memory:
            return None  # nothing changes, or not in this phase
        if watched.said != (before, decision.target):
            watched.said = (before, decision.target)
            log.info(
                "%s %s from %d to %d replicas: %s",
                "upscaling" if decision.target > before else "downscaling",
                memory.key,
                before,
                decision.target,
                decision.why,
                extra={"action": "autoscaled"},
            )
        return decision.target


def _running(cluster: Cluster, key: DeploymentKey) -> int:
    """Those that callers are sent to."""
    route = cluster.routes.get(key)
    return sum(not replica.suspect for replica in route.replicas) if route is not None else 0
