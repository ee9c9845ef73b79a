"""Is the asked version still worth trying? Pure; asked by `deployment` before each step of a rollout.

It is refused when it fails to start again and again, when it makes no progress until its deadline, and, with a guard,
when its first replica does worse than the version before it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from serve_rt.controller.census import Member
from serve_rt.controller.draft import Draft
from serve_rt.controller.guard import fault_of
from serve_rt.controller.rollout import is_guarded, refuse, replicas_wanted
from serve_rt.model.cluster import DeploymentMemory, RolloutPhase
from serve_rt.model.ids import VersionId
from serve_rt.model.tally import Tally, together


def judge(draft: Draft, memory: DeploymentMemory, members: Iterable[Member]) -> DeploymentMemory:
    if memory.phase is not RolloutPhase.ROLLING:
        return memory
    ours = [m for m in members if m.wanted and m.version == memory.target.version]
    memory = _judge_starts(draft, memory, ours)
    if memory.phase is RolloutPhase.ROLLING and is_guarded(memory):
        memory = _judge_by_guard(draft, memory)
    if memory.phase is RolloutPhase.ROLLING and not (is_held(memory) and memory.progress):
        memory = _judge_progress(draft, memory, ours)
    return memory


def is_held(memory: DeploymentMemory) -> bool:
    """The first replica of a guarded version has not served its window yet."""
    return is_guarded(memory) and memory.guard_passed != memory.target.version


def failures_of(members: Iterable[Member], version: VersionId) -> int:
    return sum(m.failures for m in members if m.wanted and m.reachable and m.version == version)


def last_words(members: Iterable[Member]) -> str:
    spoken = [m.observed for m in members if m.observed is not None and m.observed.message]
    return max(spoken, key=lambda o: o.since_s).message if spoken else ""


def _judge_starts(draft: Draft, memory: DeploymentMemory, ours: list[Member]) -> DeploymentMemory:
    failures = memory.failure_offset + failures_of(ours, memory.target.version)
    options = memory.target.options
    limit = max(1, replicas_wanted(memory)) * draft.settings.constructor_failures_per_replica
    once_good = memory.last_good is None and any(m.ready for m in ours)  # the first version: go on trying, as Ray does
    if failures < max(1, min(limit, options.max_constructor_retry_count)) or once_good:
        return memory
    reason = (
        f"The deployment failed to start {failures} times in a row. This may be due to a problem with its "
        f"constructor or initial health check failing. Error:\n{last_words(ours) or memory.message}"
    )
    return refuse(memory, reason, draft.now_wall)


def _judge_by_guard(draft: Draft, memory: DeploymentMemory) -> DeploymentMemory:
    guard, version = memory.target.options.guard, memory.target.version
    if guard is None or not memory.progress:
        return memory
    tallies = draft.cluster.tallies.get(memory.key, {})
    old = together(tally for other, tally in tallies.items() if other != version)
    fault = fault_of(guard, old, tallies.get(version, Tally()))
    if fault:
        return refuse(memory, f"it does worse than the version before it: {fault}", draft.now_wall)
    if not is_held(memory):
        return memory
    # Its first replica was seen ready when the progress came, which is when the wait began.
    since = draft.cluster.phase_since.get(memory.key)
    stored = draft.cluster.deployments.get(memory.key)
    if since is None or stored is None or not stored.progress or stored.generation != memory.generation:
        return memory
    if draft.now >= since + guard.window_s:
        return replace(memory, guard_passed=version)
    draft.wakes.append(since + guard.window_s)
    return memory


def _judge_progress(draft: Draft, memory: DeploymentMemory, ours: list[Member]) -> DeploymentMemory:
    since = draft.cluster.phase_since.get(memory.key)
    if since is None or draft.cluster.deployments.get(memory.key) != memory:
        return memory  # the phase begins with this very plan
    deadline_s = memory.target.options.progress_deadline_s
    if draft.now < since + deadline_s:
        draft.wakes.append(since + deadline_s)
        return memory
    words = memory.pending or last_words(ours) or "its replicas are still starting"
    reason = f"no further replica got ready within progress_deadline_s={deadline_s:g}: {words}"
    return refuse(memory, reason, draft.now_wall)
