"""Applications that scale by what they say of themselves. Copied into the user's folder, imported there and in replicas
and, for the policy, in the policy's own process.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request

import serve_rt as serve
from serve_rt.config import AutoscalingContext, DeploymentID

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


def twice_as_many_helpers(
    contexts: Mapping[DeploymentID, AutoscalingContext], each: float
) -> tuple[dict[DeploymentID, float], dict[DeploymentID, dict[str, Any]]]:
    """Of a whole application: the queue by its depth, and two helpers for each replica of it."""
    depths = [d for ctx in contexts.values() for d in ctx.aggregated_metrics.get("depth", {}).values()]
    queues = max(1.0, max(depths, default=1.0) / each)
    return {key: queues * (2 if key.name == "Helper" else 1) for key in contexts}, {}


@serve.deployment(autoscaling_config=KNOBS, ray_actor_options={"num_cpus": 0.1})
class Helper:
    def __call__(self) -> str:
        return "helped"


@serve.deployment(autoscaling_config=KNOBS, ray_actor_options={"num_cpus": 0.1})
class HelpedQueue:
    """As Queue, with another deployment behind it."""

    def __init__(self, helper: Any) -> None:
        self.depth = 1.0
        self.helper = helper

    def record_autoscaling_stats(self) -> dict[str, float]:
        return {"depth": self.depth}

    async def __call__(self, request: Request) -> str:
        self.depth = float(request.query_params.get("depth", self.depth))
        return str(await self.helper.remote())


HELPED = HelpedQueue.bind(Helper.bind())  # type: ignore[attr-defined]  # a Deployment, as above

BUILDERS = {"queue": queue}
