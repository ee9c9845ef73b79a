"""What policies of the users' own are asked, what they answered last, and for how long that holds. No I/O.

Part of the autoscaler's memory (`scaling`): `policies` takes the questions from here to the policies' processes and
brings the answers; `scaling` decides by the answers. Statistics of replicas are kept as long as the look-back period.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from serve_rt.controller.demand import NodeDemand, Series
from serve_rt.model.cluster import Cluster, DeploymentMemory
from serve_rt.model.ids import BlobDigest, DeploymentKey, ReplicaId, deployment_of
from serve_rt.model.spec import AutoscalingOptions, PolicySpec

HOLDS_S = 10.0
"""An answer counts so long; then the policy is silent."""
MAX_STATE_BYTES = 4096
SAVE_STATE_EVERY_S = 10.0
RAW_POINTS = 120


@dataclass(frozen=True, slots=True)
class Question:
    """One for a deployment with a policy of its own, or one for all of an application."""

    policy: PolicySpec
    code: BlobDigest | None
    keys: tuple[DeploymentKey, ...]
    contexts: tuple[Mapping[str, Any], ...]
    """JSON of an AutoscalingContext each."""
    application: bool


@dataclass(slots=True)
class Wish:
    """What the policy of one deployment said last."""

    replicas: float | None = None
    at: float = 0.0
    trouble: str = "the policy was not asked yet"
    state_json: str = "{}"
    saved_json: str = ""
    saved_at: float = 0.0

    def holds(self, now: float) -> bool:
        return self.replicas is not None and not self.trouble and now - self.at <= HOLDS_S


@dataclass(slots=True)
class Wishes:
    known: dict[DeploymentKey, Wish] = field(default_factory=dict)
    stats: dict[ReplicaId, dict[str, Series]] = field(default_factory=dict)

    def of(self, memory: DeploymentMemory, now: float) -> Wish:
        wish = self.known.get(memory.key)
        saved = memory.scaling.policy_state_json
        if wish is None:
            wish = self.known[memory.key] = Wish(state_json=saved or "{}", saved_json=saved, saved_at=now)
        if wish.saved_json != saved:
            wish.saved_json, wish.saved_at = saved, now
        return wish

    def state_to_save(self, memory: DeploymentMemory, now: float) -> str | None:
        """The policy's state, now and then, if it is another one than what is saved."""
        wish = self.of(memory, now)
        if wish.state_json in (wish.saved_json or "{}", "{}") or now - wish.saved_at < SAVE_STATE_EVERY_S:
            return None
        return wish.state_json

    def answered(self, key: DeploymentKey, replicas: float | None, state_json: str, now: float) -> None:
        wish = self.known.setdefault(key, Wish())
        if len(state_json) > MAX_STATE_BYTES:
            wish.trouble = f"the policy's state has {len(state_json)} bytes, at most {MAX_STATE_BYTES} are kept"
            return
        wish.replicas, wish.at, wish.trouble, wish.state_json = replicas, now, "", state_json
        if replicas is None:
            wish.trouble = "the policy of the application left it out"

    def failed(self, keys: Iterable[DeploymentKey], trouble: str) -> None:
        for key in keys:
            self.known.setdefault(key, Wish()).trouble = trouble

    def note_stats(self, words: Iterable[NodeDemand], now: float) -> None:
        heard = {replica: values for word in words for replica, values in word.stats.items()}
        for replica, values in heard.items():
            series = self.stats.setdefault(replica, {})
            for name, value in values.items():
                one = series.get(name)
                if one is None:
                    one = series[name] = Series(now, value)
                one.note(value, now)
        for gone in self.stats.keys() - heard.keys():
            del self.stats[gone]

    def latest(self, key: DeploymentKey) -> dict[str, dict[str, float]]:
        return {
            replica: {name: series.latest for name, series in named.items()}
            for replica, named in self.stats.items()
            if deployment_of(replica) == key
        }

    def metrics(self, key: DeploymentKey, options: AutoscalingOptions, now: float) -> dict[str, dict[str, float]]:
        """Aggregated as demand is: metric -> replica -> value."""
        found: dict[str, dict[str, float]] = {}
        for replica, named in self.stats.items():
            if deployment_of(replica) == key:
                for name, series in named.items():
                    value = series.aggregate(options.aggregation_function, options.look_back_period_s, now)
                    found.setdefault(name, {})[replica] = value
        return found

    def raw(self, key: DeploymentKey, wall_offset: float) -> dict[str, dict[str, list[tuple[float, float]]]]:
        found: dict[str, dict[str, list[tuple[float, float]]]] = {}
        for replica, named in self.stats.items():
            if deployment_of(replica) == key:
                for name, series in named.items():
                    points = [(at + wall_offset, value) for at, value in series.points(RAW_POINTS)]
                    found.setdefault(name, {})[replica] = points
        return found


def policy_of(cluster: Cluster, memory: DeploymentMemory) -> tuple[PolicySpec | None, bool]:
    """The policy that decides on a deployment, and whether it is the application's."""
    app = cluster.serving(memory.app)
    if app is not None and app.autoscaling_policy is not None:
        return app.autoscaling_policy, True
    options = memory.target.options.autoscaling
    return (options.policy if options is not None else None), False


def config_json(options: AutoscalingOptions) -> dict[str, Any]:
    """As an AutoscalingConfig takes it."""
    return {name: value for name, value in asdict(options).items() if name != "policy"}
