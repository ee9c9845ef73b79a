"""The arithmetic of an update, and the moves of a deployment's phase. Pure; called by `reconcile`.

Order up: a replica of the target counts against an old one only when it is ready *and* routed. So the number of ready
replicas never falls below the target by our own act. Stop-first exists only where no room is left, and then takes at
most `max_unavailable`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from serve_rt.controller.autoscale import bounded
from serve_rt.model.cluster import KEPT_VERSIONS, ROLLOUT_TRANSITIONS, DeploymentMemory, RolloutPhase
from serve_rt.model.ids import DeploymentKey
from serve_rt.model.scaling import ScalingMemory
from serve_rt.model.spec import DeploymentSpec
from serve_rt.model.status import DeploymentStatusTrigger
from serve_rt.model.transitions import move

KEPT_HISTORY = 8


@dataclass(frozen=True, slots=True)
class Standing:
    """Counts of one deployment: `new` is where we want to be, `old` is to be replaced (another version, or moving)."""

    wanted: int
    new: int
    new_ready: int
    """Of `new`: ready and routed."""
    old: int
    old_ready: int


@dataclass(frozen=True, slots=True)
class Steps:
    create: int
    drain_old: int
    """The ones that are not ready go first."""
    drain_surplus: int

    def for_canary(self, new: int) -> Steps:
        """The first replica of a guarded version is alone until it has been judged, and takes nobody's place."""
        return Steps(min(self.create, max(0, CANARIES - new)), 0, self.drain_surplus)


CANARIES = 1


def next_steps(standing: Standing, max_surge_percent: int, *, surge: bool = True) -> Steps:
    """What may be done now without harm. With `surge` off (a negative control) old replicas go before new ones come."""
    surplus = max(0, standing.new - standing.wanted)
    if not surge:
        return Steps(max(0, standing.wanted - standing.new), standing.old, surplus)
    limit = standing.wanted + (_surge(standing.wanted, max_surge_percent) if standing.old else 0)
    room = max(0, limit - standing.new - standing.old)
    create = max(0, min(standing.wanted - standing.new, room))
    replaced = min(standing.new_ready, standing.wanted) + standing.old - standing.wanted
    return Steps(create, max(0, min(standing.old, replaced)), surplus)


def may_stop_first(standing: Standing, max_unavailable: int) -> int:
    """How many *ready* old replicas may go before their successors are there, where no room is left for those."""
    ready = standing.new_ready + standing.old_ready
    return max(0, ready - max(0, standing.wanted - max_unavailable))


def _surge(wanted: int, percent: int) -> int:
    return max(1, math.ceil(wanted * percent / 100))


# --- phases -------------------------------------------------------------------------------------------------------


def enter(memory: DeploymentMemory, phase: RolloutPhase, now_wall: float, **changes: object) -> DeploymentMemory:
    """Move to `phase`. *Errors*: InvalidTransition with the deployment's recent history."""
    move(ROLLOUT_TRANSITIONS, memory.phase, phase, str(memory.key), memory.history)
    target = changes.get("target", memory.target)
    assert isinstance(target, DeploymentSpec)
    history = (*memory.history, f"{phase.name} {target.version}")[-KEPT_HISTORY:]
    return replace(memory, phase=phase, since_s=now_wall, progress=0, history=history, **changes)  # type: ignore[arg-type]  # fields by name


def first_memory(key: DeploymentKey, spec: DeploymentSpec, generation: int, now_wall: float) -> DeploymentMemory:
    return DeploymentMemory(
        app=key.app,
        deployment=key.deployment,
        target=spec,
        generation=generation,
        versions=(spec,),
        since_s=now_wall,
        history=(f"ROLLING {spec.version}",),
    )


def take_in(
    memory: DeploymentMemory, spec: DeploymentSpec, generation: int, failures: int, now_wall: float
) -> DeploymentMemory:
    """The memory after a deploy: a new version rolls, a light change scales or nothing."""
    asked = replace(memory, generation=generation, versions=_remember(memory, spec), pending="", yielded=0)
    if spec.options.autoscaling != memory.target.options.autoscaling:
        asked = replace(asked, scale_target=_first_target(memory, spec))
    if spec.version != memory.target.version or memory.phase in _STARTS_OVER:
        forgiven = failures if spec.version == memory.target.version else 0  # asked again: a fresh count
        return enter(
            asked,
            RolloutPhase.ROLLING,
            now_wall,
            target=spec,
            refused=None,
            message="",
            failure_offset=-forgiven,
            guard_passed=None,
            trigger=DeploymentStatusTrigger.CONFIG_UPDATE_STARTED,
        )
    return _take_in_light(replace(asked, target=spec), replicas_wanted(memory), now_wall)


def return_to(memory: DeploymentMemory, spec: DeploymentSpec, why: str, now_wall: float) -> DeploymentMemory:
    """Its application was refused as a whole: back to `spec`, also from a version that is well by itself."""
    if memory.target == spec:
        return memory
    if memory.target.version == spec.version:
        return _take_in_light(replace(memory, target=spec), replicas_wanted(memory), now_wall)
    return enter(
        memory,
        RolloutPhase.ROLLING_BACK,
        now_wall,
        target=spec,
        refused=memory.target.version,
        message=why,
        versions=_remember(memory, spec),
        pending="",
        failure_offset=0,
    )


_STARTS_OVER = frozenset(
    {RolloutPhase.FAILED, RolloutPhase.ROLLED_BACK, RolloutPhase.ROLLING_BACK, RolloutPhase.DELETING}
)
_SCALES = frozenset({RolloutPhase.STEADY, RolloutPhase.UPSCALING, RolloutPhase.DOWNSCALING})


def _take_in_light(memory: DeploymentMemory, before: int, now_wall: float) -> DeploymentMemory:
    wanted = replicas_wanted(memory)
    if wanted == before or memory.phase not in _SCALES:
        return memory
    phase = RolloutPhase.UPSCALING if wanted > before else RolloutPhase.DOWNSCALING
    return enter(memory, phase, now_wall, message="", trigger=DeploymentStatusTrigger.CONFIG_UPDATE_STARTED)


def _remember(memory: DeploymentMemory, spec: DeploymentSpec) -> tuple[DeploymentSpec, ...]:
    """`spec` first, one spec per version; the last good one is kept however old it is."""
    others = [old for old in memory.versions if old.version != spec.version]
    kept = others[: KEPT_VERSIONS - 1]
    good = [old for old in others[KEPT_VERSIONS - 1 :] if old.version == memory.last_good]
    return (spec, *(kept[:-1] + good if good else kept))


def replicas_wanted(memory: DeploymentMemory) -> int:
    """How many replicas there should be: as the options say, or the autoscaler, less what gave way to others."""
    return max(0, _asked_for(memory) - memory.yielded)


def replicas_owed(memory: DeploymentMemory) -> int:
    """Of those wanted, how many the program asks for outright; the rest are the autoscaler's."""
    scaling = memory.target.options.autoscaling
    return replicas_wanted(memory) if scaling is None else min(replicas_wanted(memory), scaling.start_replicas())


def _asked_for(memory: DeploymentMemory) -> int:
    options = memory.target.options
    if options.autoscaling is None:
        return options.num_replicas
    target = memory.scale_target
    return bounded(options.autoscaling, target if target is not None else options.autoscaling.start_replicas())


def _first_target(memory: DeploymentMemory, spec: DeploymentSpec) -> int | None:
    """With new autoscaling options: what they say to begin with, else go on from where we are."""
    options = spec.options.autoscaling
    return None if options is None or options.initial_replicas is not None else replicas_wanted(memory)


def rescale(memory: DeploymentMemory, target: int, now_wall: float) -> DeploymentMemory:
    """Take in the autoscaler's word. While versions change places, more may be asked for but not less."""
    before = replicas_wanted(memory)
    if target == before or memory.target.options.autoscaling is None or memory.phase in _NEVER_SCALED:
        return memory
    if memory.phase not in _SCALES:
        falls = target < before and memory.phase is not RolloutPhase.ROLLED_BACK
        return memory if falls else replace(memory, scale_target=target, scaling=without_timer(memory.scaling))
    memory = replace(memory, scaling=without_timer(memory.scaling))
    phase = RolloutPhase.UPSCALING if target > before else RolloutPhase.DOWNSCALING
    return enter(memory, phase, now_wall, message="", scale_target=target, trigger=DeploymentStatusTrigger.AUTOSCALING)


def without_timer(scaling: ScalingMemory) -> ScalingMemory:
    return replace(scaling, direction=0, held_s=0.0)


_NEVER_SCALED = frozenset({RolloutPhase.FAILED, RolloutPhase.DELETING})


def complete(memory: DeploymentMemory, now_wall: float) -> DeploymentMemory:
    """What was asked has been reached."""
    done = _DONE.get(memory.phase)
    if done is None:
        return memory
    phase, trigger = done
    message = memory.message if phase is RolloutPhase.ROLLED_BACK else ""
    reached = enter(memory, phase, now_wall, message=message, pending="", last_good=memory.target.version)
    return replace(reached, trigger=trigger)


_DONE = {
    RolloutPhase.ROLLING: (RolloutPhase.STEADY, DeploymentStatusTrigger.CONFIG_UPDATE_COMPLETED),
    RolloutPhase.FAILED: (RolloutPhase.STEADY, DeploymentStatusTrigger.UNSPECIFIED),
    RolloutPhase.UPSCALING: (RolloutPhase.STEADY, DeploymentStatusTrigger.UPSCALE_COMPLETED),
    RolloutPhase.DOWNSCALING: (RolloutPhase.STEADY, DeploymentStatusTrigger.DOWNSCALE_COMPLETED),
    RolloutPhase.ROLLING_BACK: (RolloutPhase.ROLLED_BACK, DeploymentStatusTrigger.REPLICA_STARTUP_FAILED),
}


def is_guarded(memory: DeploymentMemory) -> bool:
    """A new version on its way beside a good one, to be compared with it."""
    rolling = memory.phase is RolloutPhase.ROLLING and memory.target.options.guard is not None
    return rolling and memory.last_good not in (None, memory.target.version)


def refuse(memory: DeploymentMemory, reason: str, now_wall: float) -> DeploymentMemory:
    """The target cannot be reached: back to the last good version, or DEPLOY_FAILED when there is none."""
    trigger = DeploymentStatusTrigger.REPLICA_STARTUP_FAILED
    bad = memory.target.version
    good = memory.spec_of(memory.last_good) if memory.last_good is not None and memory.last_good != bad else None
    if good is None:
        return enter(memory, RolloutPhase.FAILED, now_wall, message=reason, trigger=trigger)
    why = f"version {bad} was rolled back to {good.version}: {reason}"
    return enter(
        memory,
        RolloutPhase.ROLLING_BACK,
        now_wall,
        target=good,
        refused=bad,
        message=why,
        trigger=trigger,
        pending="",
        failure_offset=0,
    )
