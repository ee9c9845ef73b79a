"""How many replicas a deployment should have for the demand that is seen: Ray Serve's formula as one pure function.

Called by `scaling` with what `demand` measured; the target goes into `reconcile` as the wanted count. Time is an
argument. The walk of `desired`: formula → factor → bounds → what must not happen now → delays.

On top of Ray's rules: a target never falls on readings that are not complete (missing is not zero), no running replica
goes while others are starting, and a fall lands on what the busiest moment of the last look-back needed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from serve_rt.model.spec import AutoscalingOptions

_EPSILON = 1e-6
_NOT_HEARD = "not every reporter was heard for one look-back"


@dataclass(frozen=True, slots=True)
class Demand:
    """Requests queued and running of one deployment, over all reporters."""

    total: float
    """Aggregated over the look-back period."""
    latest: float
    peak: float
    """The highest `total` within one look-back: a fall lands here, so that a wave is not followed down its slope."""
    complete: bool
    """Every reporter was heard, for one look-back at least. If not, the target may rise but never fall."""


@dataclass(frozen=True, slots=True)
class Timer:
    """Since when (monotonic) all decisions have pointed the same way: 1 up, -1 down, 0 none."""

    direction: int = 0
    since: float = 0.0

    def held_s(self, now: float) -> float:
        return now - self.since if self.direction else 0.0


@dataclass(frozen=True, slots=True)
class Decision:
    target: int
    timer: Timer
    why: str
    """For the log: what was seen and what holds the target back, if anything does."""
    aim: int
    """Where the target goes when the delay is over."""
    paused: bool = False
    """Nothing can be said for want of readings: the time that passes counts neither way."""


def by_policy(
    options: AutoscalingOptions, wish: float, demand: Demand, running: int, target: int, timer: Timer, now: float
) -> Decision:
    """The target from now on when a policy of the user's own wishes for `wish` replicas: what it says goes through the
    same factors, bounds and delays, and never against what is known to do harm."""
    asked = bounded(options, _scaled(options, wish, running, target) if running else math.ceil(wish - _EPSILON))
    why = f"the policy says {wish:g}; ongoing requests: {demand.total:.2f}, running replicas: {running}"
    if asked < target and not demand.complete:
        return Decision(target, timer, f"{why}; held back: {_NOT_HEARD}", target, paused=True)
    aim, held = _harmless(asked, demand, running, target)
    why += f"; {asked} is held back: {held}" if held else ""
    return _after_delay(options, aim, target, timer, now, why)


def without_policy(
    options: AutoscalingOptions, trouble: str, demand: Demand, running: int, target: int, timer: Timer
) -> Decision:
    """The policy is silent: all stays, except that a request at none is not left waiting."""
    if running == 0 and target == 0 and demand.latest > 0.0:
        return Decision(bounded(options, 1), Timer(), f"a request waits and the policy is silent: {trouble}", 1)
    return Decision(target, timer, f"{target} stays: {trouble}", target, paused=True)


def desired(
    options: AutoscalingOptions, demand: Demand, running: int, target: int, timer: Timer, now: float
) -> Decision:
    """The target from now on. `running`: replicas that serve; `target`: what is wanted at present."""
    seen = f"ongoing requests: {demand.total:.2f}, running replicas: {running}"
    if running == 0 and max(demand.total, demand.latest) > 0.0:
        first = bounded(options, max(math.ceil(options.upscaling_factor), target))
        if first > target:
            return Decision(first, Timer(), f"a request waits and no replica is there; {seen}", first)
    asked = bounded(options, _asked(options, demand.total, running, target))
    if asked < target and not demand.complete:
        why = f"{target} for {seen}; {asked} is held back: {_NOT_HEARD}"
        return Decision(target, timer, why, target, paused=True)
    aim, held = _harmless(asked, demand, running, target)
    why = f"{aim} for {seen}" + (f"; {asked} is held back: {held}" if held else "")
    decision = _after_delay(options, aim, target, timer, now, why)
    if target > 1 and decision.target < target:
        landing = min(target, bounded(options, _asked(options, demand.peak, running, target)))
        return replace(decision, target=max(decision.target, landing))
    return decision


def bounded(options: AutoscalingOptions, replicas: int) -> int:
    return max(options.min_replicas, min(options.max_replicas, replicas))


def _asked(options: AutoscalingOptions, total: float, running: int, target: int) -> int:
    """Ray's policy."""
    return _scaled(options, total / options.target_ongoing_requests, running, target) if running else target


def _scaled(options: AutoscalingOptions, ideal: float, running: int, target: int) -> int:
    """Ray's factors."""
    factor = options.upscaling_factor if ideal > running else options.downscaling_factor
    scaled = math.ceil(running + factor * (ideal - running) - _EPSILON)
    if math.ceil(ideal) < running and scaled == running:
        scaled -= 1  # a small factor must not stop the way down
    if target > 1:
        scaled = max(1, scaled)  # never from many to none in one step
    return max(0, scaled)


def _harmless(asked: int, demand: Demand, running: int, target: int) -> tuple[int, str]:
    """`asked`, or less of a fall, and why."""
    if asked >= target:
        return asked, ""
    if asked < running < target:
        return running, "replicas are still starting"
    if asked == 0 and demand.latest > 0.0:
        return target, "requests are running"
    return asked, ""


def _after_delay(options: AutoscalingOptions, aim: int, target: int, timer: Timer, now: float, why: str) -> Decision:
    direction = (aim > target) - (aim < target)
    if direction == 0:
        return Decision(target, Timer(), why, target)
    if timer.direction != direction:
        timer = Timer(direction, now)
    delay_s = delay_of(options, direction, target)
    if now - timer.since + _EPSILON < delay_s:
        return Decision(target, timer, f"{why}; must hold for {delay_s:g} s", aim)
    return Decision(aim, timer, why, aim)


def delay_of(options: AutoscalingOptions, direction: int, target: int) -> float:
    if direction > 0:
        return options.upscale_delay_s
    if target == 1 and options.downscale_to_zero_delay_s is not None:
        return options.downscale_to_zero_delay_s
    return options.downscale_delay_s
