"""What a policy of the user's own is given: Ray's `AutoscalingContext`, made in the policy's process for each question.

def policy(ctx: AutoscalingContext) -> tuple[float, dict]:
    return ctx.total_num_requests / 4, ctx.policy_state
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class DeploymentID:
    name: str
    app_name: str = "default"

    def __str__(self) -> str:
        return f"Deployment(name='{self.name}', app='{self.app_name}')"


@dataclass(frozen=True)
class TimeStampedValue:
    timestamp: float
    value: float


@dataclass(frozen=True)
class AutoscalingContext:
    deployment_id: DeploymentID
    deployment_name: str
    app_name: str
    current_num_replicas: int
    """That serve at present."""
    target_num_replicas: int
    running_replicas: Sequence[str] = ()
    total_num_requests: float = 0.0
    """Queued and running, over the look-back period."""
    total_queued_requests: float = 0.0
    total_running_requests: float = 0.0
    aggregated_metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """What `record_autoscaling_stats` said, over the look-back period: metric -> replica -> value."""
    raw_metrics: Mapping[str, Mapping[str, Sequence[TimeStampedValue]]] = field(default_factory=dict)
    capacity_adjusted_min_replicas: int = 1
    capacity_adjusted_max_replicas: int = 1
    policy_state: dict[str, Any] = field(default_factory=dict)
    """What the policy returned as its state last; JSON."""
    last_scale_up_time: float | None = None
    last_scale_down_time: float | None = None
    current_time: float = 0.0
    config: Any = None
    """An AutoscalingConfig."""


def context_of(values: Mapping[str, Any]) -> AutoscalingContext:
    """From the JSON that the leader sends."""
    from serve_rt.config.options import AutoscalingConfig

    name, app = values["deployment_name"], values["app_name"]
    raw = {
        metric: {replica: [TimeStampedValue(*point) for point in points] for replica, points in replicas.items()}
        for metric, replicas in values["raw_metrics"].items()
    }
    plain = {**values, "raw_metrics": raw, "config": AutoscalingConfig(**values["config"])}
    return AutoscalingContext(deployment_id=DeploymentID(name, app), **plain)
