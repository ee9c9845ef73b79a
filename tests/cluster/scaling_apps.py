"""Applications that scale by what they say of themselves. Copied into the user's folder, imported there and in replicas
and, for the policy, in the policy's own process.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request

import serve_rt as serve
from serve_rt.config import AutoscalingContext

KNOBS = {
    "min_replicas": 1,
    "max_replicas": 5,
    "look_back_period_s": 1,
    "upscale_delay_s": 0,
    "downscale_delay_s": 1,
    "aggregation_function": "max",
}


class ByDepth:
    """One replica for each `each` of the deepest queue that a replica reports."""

    def __init__(self, each: float) -> None:
        self.each = each

    def __call__(self, ctx: AutoscalingContext) -> tuple[float, dict[str, Any]]:
        depths = ctx.aggregated_metrics.get("depth", {})
        if max(depths.values(), default=0.0) < 0:
            raise ValueError("a depth below nothing")
        return max(depths.values(), default=1.0) / self.each, {"seen": len(depths)}


@serve.deployment
class Queue:
    """Reports the depth it was told."""

    def __init__(self) -> None:
        self.depth = 1.0

    def record_autoscaling_stats(self) -> dict[str, float]:
        return {"depth": self.depth}

    async def __call__(self, request: Request) -> dict[str, float]:
        self.depth = float(request.query_params.get("depth", self.depth))
        return {"depth": self.depth}


def queue(options: Mapping[str, Any]) -> serve.Application:
    policy = {"policy_function": ByDepth, "policy_kwargs": {"each": 10}}
    deployment: Any = Queue  # a Deployment, which the class decorator does not tell
    application: serve.Application = deployment.options(
        autoscaling_config={**KNOBS, "policy": policy}, **options
    ).bind()
    return application


BUILDERS = {"queue": queue}
