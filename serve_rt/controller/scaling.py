"""The autoscaler's memory during one term of leadership: demand over time, and timers. No clock, no I/O of its own.

`loop` asks `look` whether a target should change (each quarter of a second, and at once when an agent reports new
demand) and gives the answer to `reconcile` as `Cluster.scale_targets`; the decision itself is `autoscale.desired`. The
target is saved with the deployment, and so are timers that have run for a while (`scaling_notes`): the next leader
hears the demand within a second, may raise a target at once, goes on with the timer it finds, and lowers none before
it has looked back for one whole period.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from serve_rt.controller.autoscale import Decision, Demand, Timer, by_policy, delay_of, desired, without_policy
from serve_rt.controller.demand import NodeDemand, Peak, Series, all_heard
from serve_rt.controller.policy_wishes import Question, Wishes, config_json, policy_of
from serve_rt.controller.rollout import replicas_wanted, rescale
from serve_rt.controller.scaling_notes import due_note
from serve_rt.controller.scaling_wave import Wave
from serve_rt.model.cluster import Cluster, DeploymentMemory
from serve_rt.model.ids import AppName, DeploymentKey, NodeId
from serve_rt.model.scaling import DeploymentScaling, ScalingMemory, ScalingOverview
from serve_rt.model.spec import AutoscalingOptions

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Watched:
    series: Series
    timer: Timer
    looked_at: float
    peak: Peak = field(default_factory=Peak)
    wave: Wave = field(default_factory=Wave)
    total: float = 0.0
    said: tuple[int, int] = (0, 0)
    seen: DeploymentScaling | None = None
    up_at: float | None = None
    down_at: float | None = None

    def moved(self, direction: int, now: float) -> None:
        self.wave.moved(direction, now)
        if direction > 0:
            self.up_at = now
        else:
            self.down_at = now


class Scaling:
    """Made when a term begins."""

    def __init__(self, now: float, *, learns: bool = True) -> None:
        """`learns` is off in a negative control only."""
        self._since, self._learns = now, learns
        self._watched: dict[DeploymentKey, _Watched] = {}
        self.notes: dict[DeploymentKey, ScalingMemory] = {}
        """What the last look found worth saving."""
        self.wishes = Wishes()

    def look(self, cluster: Cluster, words: Mapping[NodeId, NodeDemand], now: float) -> dict[DeploymentKey, int]:
        """Targets that should change. Asked twice at one time the answer is the same."""
        self.wishes.note_stats(words.values(), now)
        heard = all_heard((words.get(node) for node in cluster.nodes), now)
        targets: dict[DeploymentKey, int] = {}
        self.notes = {}
        scaled = {
            key: (memory, options)
            for key, memory in cluster.deployments.items()
            if (options := memory.target.options.autoscaling) is not None
        }
        for key, (memory, options) in scaled.items():
            watched = self._watched.get(key) or self._begin(memory, now)
            counts = [word.counts[key] for word in words.values() if key in word.counts]
            watched.series.note(sum(count.total for count in counts), now)
            complete = heard and now - self._since >= options.look_back_period_s
            decision = self._decide(cluster, memory, options, watched, complete, now)
            watched.seen = replace(
                self._explain(cluster, memory, watched, decision, now),
                running=_running(cluster, key),
                queued=sum(count.queued for count in counts),
                ongoing=sum(count.ongoing for count in counts),
                complete=complete,
                stats=self.wishes.latest(key),
            )
            if rescale(memory, decision.target, 0.0) is not memory:  # else nothing changes, or not in this phase
                targets[key] = decision.target
                watched.moved(1 if decision.target > replicas_wanted(memory) else -1, now)
                self._say(memory, watched, decision)
            note = due_note(memory, options, watched.timer, now)
            state = self.wishes.state_to_save(memory, now)
            if state is not None:
                note = replace(note or memory.scaling, policy_state_json=state)
            if note is not None:
                self.notes[key] = note
        for gone in self._watched.keys() - scaled.keys():
            del self._watched[gone]
            self.wishes.known.pop(gone, None)
        return targets

    def questions(self, cluster: Cluster, now: float, now_wall: float) -> list[Question]:
        """What the policies of the users' own are to be asked now."""
        single: list[Question] = []
        together: dict[AppName, list[DeploymentMemory]] = {}
        for key in sorted(self._watched.keys() & cluster.deployments.keys()):
            memory = cluster.deployments[key]
            policy, of_application = policy_of(cluster, memory)
            if policy is None:
                continue
            if of_application:
                together.setdefault(key.app, []).append(memory)
            else:
                context = self._context(cluster, memory, now, now_wall)
                single.append(Question(policy, memory.target.code, (key,), (context,), application=False))
        for memories in together.values():
            policy, _ = policy_of(cluster, memories[0])
            assert policy is not None, "it was there a moment ago"
            contexts = tuple(self._context(cluster, memory, now, now_wall) for memory in memories)
            keys = tuple(memory.key for memory in memories)
            single.append(Question(policy, memories[0].target.code, keys, contexts, application=True))
        return single

    def _context(self, cluster: Cluster, memory: DeploymentMemory, now: float, now_wall: float) -> dict[str, Any]:
        options, watched = memory.target.options.autoscaling, self._watched[memory.key]
        assert options is not None and watched.seen is not None, "only what is watched is asked about"
        seen, route = watched.seen, cluster.routes.get(memory.key)
        offset = now_wall - now
        return {
            "deployment_name": memory.deployment,
            "app_name": memory.app,
            "current_num_replicas": seen.running,
            "target_num_replicas": seen.target,
            "running_replicas": [one.replica_id for one in route.replicas] if route is not None else [],
            "total_num_requests": seen.total,
            "total_queued_requests": min(seen.queued, seen.total),
            "total_running_requests": max(0.0, seen.total - seen.queued),
            "aggregated_metrics": self.wishes.metrics(memory.key, options, now),
            "raw_metrics": self.wishes.raw(memory.key, offset),
            "capacity_adjusted_min_replicas": options.min_replicas,
            "capacity_adjusted_max_replicas": options.max_replicas,
            "policy_state": json.loads(self.wishes.of(memory, now).state_json),
            "last_scale_up_time": watched.up_at + offset if watched.up_at is not None else None,
            "last_scale_down_time": watched.down_at + offset if watched.down_at is not None else None,
            "current_time": now_wall,
            "config": config_json(options),
        }

    def overview(self, cluster: Cluster, app: AppName | None = None) -> ScalingOverview:
        """What the last look saw, and would do."""
        asked = sorted(key for key in cluster.deployments if app is None or key.app == app)
        found = [self._watched[key].seen for key in asked if key in self._watched]
        return ScalingOverview(
            deployments=tuple(seen for seen in found if seen is not None),
            fixed=tuple(f"{key.app}#{key.deployment}" for key in asked if key not in self._watched),
        )

    def _begin(self, memory: DeploymentMemory, now: float) -> _Watched:
        """A former leader's timer goes on where it was when it was saved."""
        saved = memory.scaling
        timer = Timer(saved.direction, now - saved.held_s) if saved.direction else Timer()
        watched = self._watched[memory.key] = _Watched(Series(now), timer, now)
        return watched

    def _decide(
        self,
        cluster: Cluster,
        memory: DeploymentMemory,
        options: AutoscalingOptions,
        watched: _Watched,
        complete: bool,
        now: float,
    ) -> Decision:
        total = watched.series.aggregate(options.aggregation_function, options.look_back_period_s, now)
        watched.total = total
        in_sight_s = watched.wave.in_sight_s(options.look_back_period_s, now) if self._learns else 0.0
        peak = watched.peak.note(total, max(options.look_back_period_s, in_sight_s), now)
        demand = Demand(total, watched.series.latest, peak, complete)
        running, before, timer = _running(cluster, memory.key), replicas_wanted(memory), watched.timer
        wish = self.wishes.of(memory, now)
        if policy_of(cluster, memory)[0] is None:
            decision = desired(options, demand, running, before, timer, now)
        elif wish.holds(now) and wish.replicas is not None:
            decision = by_policy(options, wish.replicas, demand, running, before, timer, now)
        else:
            silent = wish.trouble or "the policy has not answered for a while"
            decision = without_policy(options, silent, demand, running, before, timer)
        passed_s, watched.looked_at = now - watched.looked_at, now
        watched.timer = decision.timer
        if decision.paused and watched.timer.direction:
            watched.timer = replace(watched.timer, since=watched.timer.since + passed_s)
        return decision

    def _explain(
        self, cluster: Cluster, memory: DeploymentMemory, watched: _Watched, decision: Decision, now: float
    ) -> DeploymentScaling:
        options = memory.target.options.autoscaling
        assert options is not None, "only what scales is looked at"
        before, timer = replicas_wanted(memory), watched.timer
        wait_s = None
        if decision.aim != before:
            wait_s = (
                max(0.0, delay_of(options, timer.direction, before) - timer.held_s(now)) if timer.direction else 0.0
            )
        return DeploymentScaling(
            app=memory.app,
            deployment=memory.deployment,
            target=before,
            aim=decision.aim,
            wait_s=wait_s,
            running=0,
            min_replicas=options.min_replicas,
            max_replicas=options.max_replicas,
            queued=0.0,
            ongoing=0.0,
            total=watched.total,
            peak=watched.peak.highest,
            complete=False,
            why=decision.why,
            policy=policy.name if (policy := policy_of(cluster, memory)[0]) is not None else "",
        )

    def _say(self, memory: DeploymentMemory, watched: _Watched, decision: Decision) -> None:
        before = replicas_wanted(memory)
        if watched.said == (before, decision.target):
            return
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


def _running(cluster: Cluster, key: DeploymentKey) -> int:
    """Those that callers are sent to."""
    route = cluster.routes.get(key)
    return sum(not replica.suspect for replica in route.replicas) if route is not None else 0
