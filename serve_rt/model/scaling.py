"""What the autoscaler remembers and what it tells: kept with a deployment's memory, shown by `serve autoscale`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ScalingMemory:
    """Survives the leader, as part of `/deployments/<app>/<deployment>`. Times are lengths, never times of day: clocks
    of different machines do not agree."""

    direction: int = 0
    """All decisions have pointed this way: 1 up, -1 down, 0 none."""
    held_s: float = 0.0
    """For at least so long when this was written."""
    policy_state_json: str = ""
    """What a policy of the user's own returned as its state last."""


@dataclass(frozen=True, slots=True)
class DeploymentScaling:
    """One deployment as the autoscaler sees it now."""

    app: str
    deployment: str
    target: int
    """Replicas wanted at present."""
    aim: int
    """What it would come to if all stays as it is."""
    wait_s: float | None
    """How long all must stay so before the target moves; None: nothing is to move."""
    running: int
    min_replicas: int
    max_replicas: int
    queued: float
    ongoing: float
    total: float
    """Queued and ongoing over the look-back period."""
    peak: float
    complete: bool
    """Every reporter was heard for one look-back: without that a target never falls."""
    why: str
    policy: str = ""
    """ "" for the one that follows target_ongoing_requests."""
    stats: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """What the replicas' record_autoscaling_stats said last: replica -> name -> value."""


@dataclass(frozen=True, slots=True)
class ScalingOverview:
    deployments: tuple[DeploymentScaling, ...] = ()
    fixed: tuple[str, ...] = ()
    """Deployments with a fixed number of replicas."""
