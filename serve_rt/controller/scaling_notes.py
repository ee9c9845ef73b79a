"""When is the autoscaler's timer worth a write? Pure; asked by `scaling` at each look.

A leader that dies must not make a ten-minute delay begin again, and an autoscaler must not write at each look. So a
timer is saved after each quarter of its delay (but not more often than each MIN_STEP_S), and taken back as soon as it
is reset: its successor never believes in more than what has really been held.
"""

from __future__ import annotations

from dataclasses import replace

from serve_rt.controller.autoscale import Timer, delay_of
from serve_rt.controller.rollout import replicas_wanted, without_timer
from serve_rt.model.cluster import DeploymentMemory
from serve_rt.model.scaling import ScalingMemory
from serve_rt.model.spec import AutoscalingOptions

MIN_STEP_S = 5.0
_STEPS = 4


def due_note(memory: DeploymentMemory, options: AutoscalingOptions, timer: Timer, now: float) -> ScalingMemory | None:
    """What should stand in the deployment's memory, if that is not what stands there."""
    saved, held_s = memory.scaling, timer.held_s(now)
    if saved.direction and (saved.direction != timer.direction or held_s < saved.held_s):
        return without_timer(saved)
    if not timer.direction:
        return None
    step_s = max(MIN_STEP_S, delay_of(options, timer.direction, replicas_wanted(memory)) / _STEPS)
    if held_s < saved.held_s + step_s:
        return None
    return replace(saved, direction=timer.direction, held_s=round(held_s, 1))
