"""The usual policy, for those who call it from their own: Ray's `replica_queue_length_autoscaling_policy`."""

from __future__ import annotations

import math
from typing import Any

from serve_rt.config.autoscaling import AutoscalingContext


def replica_queue_length_autoscaling_policy(ctx: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """As many replicas as keep `target_ongoing_requests` at each; factors, bounds and delays are applied afterwards."""
    if ctx.current_num_replicas == 0:
        first = max(math.ceil(ctx.config.upscaling_factor or 1.0), ctx.target_num_replicas)
        return (first if ctx.total_num_requests > 0 else ctx.target_num_replicas), {}
    return ctx.total_num_requests / ctx.config.target(), {}


default_autoscaling_policy = replica_queue_length_autoscaling_policy
