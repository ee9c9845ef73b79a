"""An update that brings deployments of other names, where there is no room for both: the old ones give way. Pure.

Asked by `application`. As long as there is room, what serves is untouched until the new version is reached. Where there
is none that would be a deadlock, so the old deployments give up replicas one after another, never more at a time than
`max_unavailable` allows, and the routes move as soon as the new ingress has as many as the old one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from serve_rt.controller.draft import Draft
from serve_rt.controller.plan import CreateAssignment
from serve_rt.controller.rollout import replicas_wanted
from serve_rt.model.cluster import DeploymentMemory, RolloutPhase
from serve_rt.model.ids import DeploymentKey
from serve_rt.model.spec import ApplicationSpec


def gives_way(
    draft: Draft,
    asked: ApplicationSpec,
    serving: ApplicationSpec,
    states: Iterable[DeploymentMemory],
    kept: Sequence[DeploymentKey],
) -> DeploymentKey | None:
    """The deployment that gives up a replica now, so that one of the asked version can start."""
    blocked = [state.key for state in states if state.pending and state.phase is RolloutPhase.ROLLING]
    if not blocked or _something_moves(draft, [*blocked, *kept]):
        return None
    old, new = DeploymentKey(serving.name, serving.ingress), DeploymentKey(asked.name, asked.ingress)
    for key in kept:
        memory = draft.cluster.deployments.get(key)
        if memory is None or replicas_wanted(memory) == 0:
            continue
        left = _ready(draft, key) - 1 + (_ready(draft, new) if key == old else 0)
        if left >= replicas_wanted(memory) + memory.yielded - memory.target.options.max_unavailable:
            return key
    return None


def _something_moves(draft: Draft, keys: Iterable[DeploymentKey]) -> bool:
    """Room is on its way, or what got the last room is not ready yet."""
    created = {a.assignment.key for a in draft.actions if isinstance(a, CreateAssignment)}
    members = (m for key in keys for m in draft.census.members.get(key, ()) if m.assignment is not None and m.reachable)
    return not created.isdisjoint(keys) or any(not (m.wanted and m.ready) for m in members)


def _ready(draft: Draft, key: DeploymentKey) -> int:
    return sum(m.ready and m.wanted for m in draft.census.members.get(key, ()))


def should_lead(
    draft: Draft, asked: ApplicationSpec, serving: ApplicationSpec, kept: Mapping[DeploymentKey, DeploymentMemory]
) -> bool:
    """The routes move now: something that the old version needs is gone, or the new ingress has as many as the old."""
    given_up = [memory for memory in kept.values() if memory.yielded]
    if any(replicas_wanted(memory) == 0 for memory in given_up):
        return True
    old, new = DeploymentKey(serving.name, serving.ingress), DeploymentKey(asked.name, asked.ingress)
    return bool(given_up) and old != new and _ready(draft, new) >= _ready(draft, old) > 0
