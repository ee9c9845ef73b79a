"""`target_capacity`: a percentage by which every number of replicas of an application is multiplied. Pure.

Applied where an application is built from a configuration file, so a change of it is a light change: numbers move, no
replica restarts. While it is being raised an autoscaled deployment does not go below its initial replicas: traffic is
about to be moved here. Ray's rules and rounding.
"""

from __future__ import annotations

import math
from dataclasses import replace

from serve_rt.model.spec import ApplicationSpec, AutoscalingOptions, DeploymentOptions, DeploymentSpec

FULL = 100.0


def at_capacity(options: DeploymentOptions, percent: float | None) -> DeploymentOptions:
    if percent is None:
        return options
    scaling = options.autoscaling
    return replace(
        options,
        num_replicas=_part(options.num_replicas, percent),
        autoscaling=_scaling_at(scaling, percent) if scaling is not None else None,
    )


def _scaling_at(options: AutoscalingOptions, percent: float) -> AutoscalingOptions:
    initial = options.initial_replicas
    return replace(
        options,
        min_replicas=_part(options.min_replicas, percent),
        max_replicas=_part(options.max_replicas, percent),
        initial_replicas=_part(initial, percent) if initial is not None else None,
    )


def _part(count: int, percent: float) -> int:
    """Rounded half up; a part of something is at least one, a part of nothing or at nothing is none."""
    return max(1, math.floor(count * percent / FULL + 0.5)) if count and percent else 0


def is_rising(asked: ApplicationSpec, before: ApplicationSpec | None) -> bool:
    if asked.target_capacity is None:
        return False
    if before is None or before.deleting:
        return True
    was = before.target_capacity if before.target_capacity is not None else FULL
    return before.capacity_rising if asked.target_capacity == was else asked.target_capacity > was


def while_rising(spec: DeploymentSpec) -> DeploymentSpec:
    """The least is what it starts with."""
    scaling = spec.options.autoscaling
    if scaling is None or scaling.initial_replicas is None:
        return spec
    least = replace(scaling, min_replicas=max(scaling.min_replicas, scaling.initial_replicas))
    return replace(spec, options=replace(spec.options, autoscaling=least))
