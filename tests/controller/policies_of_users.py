"""Autoscaling policies as users write them; loaded by the policy's process in the tests."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from serve_rt.config import AutoscalingContext, DeploymentID


def by_queue(ctx: AutoscalingContext, per_replica: float = 4.0) -> tuple[float, dict[str, Any]]:
    print("policies may print")
    return ctx.total_num_requests / per_replica, {"asked": ctx.policy_state.get("asked", 0) + 1}


class ByGauge:
    """Follows a number that replicas report."""

    def __init__(self, name: str, each: float = 1.0) -> None:
        self.name, self.each = name, each

    def __call__(self, ctx: AutoscalingContext) -> tuple[float, dict[str, Any]]:
        values = ctx.aggregated_metrics.get(self.name, {})
        assert (
            set(values) <= set(ctx.running_replicas) and ctx.config.max_replicas == ctx.capacity_adjusted_max_replicas
        )
        return max(values.values(), default=1.0) / self.each, {}


class ByTask:
    """Asks elsewhere in a task of its own, begun at the first question, and answers with what that found last."""

    def __init__(self) -> None:
        self.found = 1.0
        self.task: asyncio.Task[None] | None = None

    async def look(self) -> None:
        await asyncio.sleep(0.01)
        self.found = 7.0

    def __call__(self, _ctx: AutoscalingContext) -> tuple[float, dict[str, Any]]:
        self.task = self.task or asyncio.get_running_loop().create_task(self.look())
        return self.found, {}


async def waiting(_ctx: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    await asyncio.sleep(0)
    return 6, {}


def moody(ctx: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """Does what the number of requests says."""
    mood = {1: "raise", 2: "hang", 3: "exit", 4: "nonsense"}.get(int(ctx.total_num_requests))
    if mood == "raise":
        raise RuntimeError("no idea")
    if mood == "hang":
        time.sleep(60)
    if mood == "exit":
        os._exit(3)
    return ("many" if mood == "nonsense" else 2.0), {}  # type: ignore[return-value]  # that is the point


def forger(ctx: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """Finds the pipe to the leader and says what it likes."""
    lies = [
        b"[1]",
        b'{"replicas": ["x"], "states": [{}]}',
        b'{"replicas": [1e999], "states": [{}]}',
        b'{"replicas": 7}',
    ]
    for fd in range(3, 30):
        try:
            os.write(fd, lies[int(ctx.total_num_requests)] + b"\n")
        except OSError:
            continue
    return 1.0, {}


def of_application(
    contexts: dict[DeploymentID, AutoscalingContext],
) -> tuple[dict[DeploymentID, float], dict[DeploymentID, dict[str, Any]] | None]:
    """The second deployment follows the first; the others are left out."""
    first = contexts[DeploymentID("first", "x")]
    return {DeploymentID("first", "x"): 3.0, DeploymentID("second", "x"): first.target_num_replicas + 1}, None
