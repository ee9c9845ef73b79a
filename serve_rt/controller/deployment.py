"""What one deployment needs next: judge its version, divide its replicas, then create, drain, route. Pure.

Called by `application` for each deployment it asks for or needs. The verdict comes from `judging`, the counts from
`rollout`, the nodes from `placement`, the routes from `routes`; this file is the walk through them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from serve_rt.controller.census import Member, NodeStanding
from serve_rt.controller.draft import Draft, runs
from serve_rt.controller.judging import failures_of, is_held, judge, last_words
from serve_rt.controller.placement import Domains, Misfit, Placing, lacks
from serve_rt.controller.plan import CreateAssignment, RewriteAssignment, SaveDeployment
from serve_rt.controller.ranks import free_rank, settled_ranks
from serve_rt.controller.rollout import (
    Standing,
    complete,
    first_memory,
    may_stop_first,
    next_steps,
    replicas_owed,
    replicas_wanted,
    rescale,
    return_to,
    take_in,
)
from serve_rt.controller.room import asked_by, devices_of
from serve_rt.controller.routes import desired_route, publish_if_changed
from serve_rt.model.cluster import DeploymentMemory, RolloutPhase
from serve_rt.model.ids import DeploymentKey, NodeId, ReplicaId
from serve_rt.model.replica import Assignment, Goal, Rank
from serve_rt.model.spec import DeploymentSpec


def plan_deployment(
    draft: Draft, key: DeploymentKey, spec: DeploymentSpec, generation: int, returning: str = "", giving_up: int = 0
) -> DeploymentMemory:
    """Its memory after this plan. `returning`: why its application goes back to a former version, `spec`. `giving_up`:
    how many more replicas it gives up because there is no room for the version that follows."""
    members = draft.census.members.get(key, ())
    stored = draft.cluster.deployments.get(key)
    if stored is not None and draft.cluster.is_reborn(key.app, stored.generation):
        members, stored = _end_former_life(draft, members), None
    memory = _current(draft, stored, key, spec, generation, members)
    if returning:
        memory = return_to(memory, spec, returning, draft.now_wall)
    if giving_up:
        memory = replace(memory, yielded=memory.yielded + giving_up)
    memory = judge(draft, memory, members)
    work = _Work(draft, key, memory, _divide(members, memory))
    work.drain_and_create()
    work.rewrite()
    work.route()
    work.finish()
    if work.memory != stored:
        draft.actions.append(SaveDeployment(work.memory))
    return work.memory


def _end_former_life(draft: Draft, members: Iterable[Member]) -> tuple[Member, ...]:
    """The application was deleted before it was deployed again: nothing of it answers once that is acknowledged."""
    members = tuple(members)
    for member in members:
        if member.wanted:
            draft.drain(member, "its application was deleted")
    return tuple(m for m in members if m.assignment is not None and not m.wanted)


# --- what it is to be -------------------------------------------------------------------------------------------


def _current(
    draft: Draft,
    stored: DeploymentMemory | None,
    key: DeploymentKey,
    spec: DeploymentSpec,
    generation: int,
    members: Iterable[Member],
) -> DeploymentMemory:
    if stored is None:
        return first_memory(key, spec, generation, draft.now_wall)
    if stored.generation == generation:
        stored = replace(stored, scaling=draft.cluster.scale_notes.get(key, stored.scaling))
        scaled = draft.cluster.scale_targets.get(key)
        return stored if scaled is None else rescale(stored, scaled, draft.now_wall)
    return take_in(stored, spec, generation, failures_of(members, spec.version), draft.now_wall)


# --- dividing the replicas ----------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Groups:
    new: list[Member] = field(default_factory=list)
    """Of the target version, where they may stay."""
    old: list[Member] = field(default_factory=list)
    """To be replaced: another version, or on a node that is being drained."""
    failed: list[Member] = field(default_factory=list)
    """Given up by their agents."""
    lost: list[Member] = field(default_factory=list)
    leaving: list[Member] = field(default_factory=list)
    unowned: list[Member] = field(default_factory=list)


def _divide(members: Iterable[Member], memory: DeploymentMemory) -> _Groups:
    groups = _Groups()
    for member in members:
        if member.standing is not NodeStanding.GIVEN_UP:
            _group_of(member, memory, groups).append(member)
    return groups


def _group_of(member: Member, memory: DeploymentMemory, groups: _Groups) -> list[Member]:
    if member.assignment is None:
        return groups.unowned
    if not member.wanted:
        return groups.leaving
    if not member.reachable:
        return groups.lost
    ours = member.version == memory.target.version
    # A failed deployment keeps its failed replicas: they say why, and replacing them would try for ever.
    if member.failed and not (ours and memory.phase is RolloutPhase.FAILED):
        return groups.failed
    return groups.new if ours and not member.moving else groups.old


# --- the work -----------------------------------------------------------------------------------------------------


class _Work:
    """One deployment's steps on one draft; made and dropped within `plan_deployment`."""

    def __init__(self, draft: Draft, key: DeploymentKey, memory: DeploymentMemory, groups: _Groups) -> None:
        self.draft, self.key, self.memory, self.groups = draft, key, memory, groups
        self.wanted = replicas_wanted(memory)
        self.created: list[Assignment] = []
        self.drained: set[ReplicaId] = set()
        self.pending = ""
        published = draft.cluster.routes.get(key)
        self._routed = {(r.replica_id, r.incarnation) for r in published.replicas} if published is not None else set()

    def drain_and_create(self) -> None:
        self._end_failed()
        self._adopt()
        standing = self._standing()
        steps = next_steps(standing, self.memory.target.options.max_surge_percent, surge=self.draft.settings.surge)
        if self.groups.old and is_held(self.memory):
            steps = steps.for_canary(standing.new)
        self._drain(self._surplus(0 if self._returning() else steps.drain_surplus), self._too_many)
        for member in self._oldest(steps.drain_old):
            moving = member.version == self.memory.target.version
            why = "its node is being drained" if moving else f"replaced by {self.memory.target.version}"
            self._drain([member], why)
        self._create(steps.create)
        if self.pending:
            self._stop_first(standing)
        for member in self.groups.leaving:
            self.draft.finish_leaving(member)

    @property
    def _too_many(self) -> str:
        return "makes room for the version that follows" if self.memory.yielded else "more than asked for"

    def _end_failed(self) -> None:
        ours = [m for m in self.groups.failed if m.version == self.memory.target.version]
        if ours and self.memory.phase is RolloutPhase.ROLLING:
            offset = self.memory.failure_offset + sum(m.failures for m in ours)
            self.memory = replace(self.memory, failure_offset=offset, message=last_words(ours))
        self._drain(self.groups.failed, "given up by its agent")

    def _adopt(self) -> None:
        """Take in what runs without our word: as ours while replicas are missing, else to its orderly end."""
        settled = len(self.groups.new) >= self.wanted and not self.groups.old
        for member in self.groups.unowned:
            if member.standing is not NodeStanding.LIVE or not runs(member):
                continue
            if member.version == self.memory.target.version and len(self.groups.new) < self.wanted:
                assignment = self.draft.adopt(member, self.memory.target, Goal.RUN)
                self.groups.new.append(replace(member, assignment=assignment))
            elif settled and self._all_ready() and member.confirmed:
                self.draft.adopt(member, self.memory.target, Goal.DRAIN)

    def _standing(self) -> Standing:
        groups = self.groups
        return Standing(
            wanted=self.wanted,
            new=len(groups.new),
            new_ready=sum(1 for m in groups.new if self._serves(m)),
            old=len(groups.old),
            old_ready=sum(1 for m in groups.old if m.ready),
        )

    def _serves(self, member: Member) -> bool:
        """Ready and routed: only such a replica lets an old one go."""
        assert member.observed is not None or not member.ready
        return (
            member.ready
            and member.observed is not None
            and (member.replica_id, member.observed.incarnation) in self._routed
        )

    def _returning(self) -> bool:
        """A returned node's replicas must report first: only then is it known which of the two copies to keep."""
        return any(
            m.assignment is not None and m.assignment.superseded_by and m.observed is not None and not m.confirmed
            for m in self.groups.new
        )

    # --- draining -------------------------------------------------------------------------------------------------

    def _drain(self, members: Iterable[Member], reason: str) -> None:
        for member in members:
            self.drained.add(member.replica_id)
            self.draft.drain(member, reason)

    def _surplus(self, count: int) -> list[Member]:
        """Not ready ones first. Of two copies of a replica whose node came back the replacement goes, unless it is
        the only one that is ready; while the original's agent has yet to say how it is, both stay."""
        on_node = Counter(m.node_id for m in self.groups.new)
        originals = [m for m in self.groups.new if m.assignment is not None and m.assignment.superseded_by is not None]
        unsure = [m for m in originals if m.answers and not m.confirmed]
        replaced = {m.assignment.superseded_by for m in originals if m.assignment is not None and m not in unsure}
        held = {m.replica_id for m in unsure}
        held |= {m.assignment.superseded_by for m in unsure if m.assignment and m.assignment.superseded_by}

        def first_to_go(m: Member) -> tuple[object, ...]:
            return (m.ready, m.replica_id not in replaced, -on_node[m.node_id], m.replica_id)

        order = sorted((m for m in self.groups.new if m.replica_id not in held), key=first_to_go)
        if self.memory.target.options.spread_label:  # the most crowded domain gives first
            above = self._above(reversed(order))
            order.sort(key=lambda m: (m.ready, m.replica_id not in replaced, -above[m.replica_id]))
        return order[: max(0, count - len(unsure))]

    def _above(self, members: Iterable[Member]) -> dict[ReplicaId, int]:
        """How many of its domain stand before each."""
        domains, above = Domains.of(self.memory.target, self.wanted, ()), {}
        for member in members:
            room = self.draft.room.get(member.node_id)
            above[member.replica_id] = domains.held(room) if room is not None else 0
            if room is not None:
                domains.take(room)
        return above

    def _oldest(self, count: int) -> list[Member]:
        """Those that serve nobody first, then those on nodes that must be emptied or have lent their CPU."""

        def first_to_go(m: Member) -> tuple[object, ...]:
            room = self.draft.room.get(m.node_id)
            overcommitted = room is not None and room.milli_cpu < 0
            return (m.ready, not m.moving, not overcommitted, m.replica_id)

        return sorted(self.groups.old, key=first_to_go)[:count]

    def _stop_first(self, standing: Standing) -> None:
        """No room for the next replica: let an old one go, if that makes the room and the floor allows it."""
        groups = self.groups
        coming = len(groups.new) - standing.new_ready + len(self.created)
        if not groups.old or groups.leaving or self.drained or coming:
            return  # room is on its way, or nothing of ours would make it
        allowed = may_stop_first(standing, self.memory.target.options.max_unavailable)
        going = self._would_make_room(allowed)
        if going:
            self._drain(going, f"stopped first to make room for {self.memory.target.version}")
            self.pending += f" {len(going)} old replica(s) are stopped first to make room."
        else:
            self.pending += f" Stopping old replicas first does not help within max_unavailable={allowed}."

    def _would_make_room(self, allowed_ready: int) -> list[Member]:
        """The fewest old replicas of one node whose end lets the next one start there. One that served before its
        agent began anew serves still, though it is not confirmed yet (found by simulation)."""
        choices: list[list[Member]] = []
        for node in sorted({m.node_id for m in self.groups.old if m.standing is NodeStanding.LIVE}):
            room = self.draft.room[node].copy()
            going: list[Member] = []
            for member in sorted(
                (m for m in self.groups.old if m.node_id == node), key=lambda m: (m.answers, m.replica_id)
            ):
                if sum(m.answers for m in going) + member.answers > allowed_ready:
                    break
                going.append(member)
                room.give(self.key, asked_by(member), devices_of(member))
                if next(lacks(room, self.key, self.memory.target, owed=True), None) is None:
                    choices.append(going)
                    break
        return min(choices, key=lambda going: (sum(m.answers for m in going), len(going)), default=[])

    # --- creating -------------------------------------------------------------------------------------------------

    def _create(self, count: int) -> None:
        if count == 0:
            return
        kept = [member.assignment for member in self.groups.new if member.assignment is not None]
        staying = [self.draft.room[m.node_id] for m in self.groups.new if m.node_id in self.draft.room]
        domains = Domains.of(self.memory.target, self.wanted, staying)
        owed = replicas_owed(self.memory) - len(self.groups.new)
        places = Placing(self.draft.room, self.key, self.memory.target, self._lent_cpu(), domains, owed)
        for _ in range(count):
            found = places.next()
            if isinstance(found, Misfit):
                self.pending = found.reason
                break
            assignment = Assignment(
                replica_id=self.draft.new_replica_id(self.key),
                node_id=found.node_id,
                app=self.key.app,
                spec=self.memory.target,
                devices=found.devices,
                epoch=self.draft.cluster.epoch,
                rank=free_rank([*kept, *self.created], found.node_id),
                world_size=self.wanted,
            )
            self.created.append(assignment)
            self.draft.actions.append(CreateAssignment(assignment))

    def _lent_cpu(self) -> dict[NodeId, int]:
        """CPU of replicas that are on their way out: their successors may share it for the time of the surge."""
        lent: Counter[NodeId] = Counter()
        for member in (*self.groups.old, *self.groups.leaving):
            asked = asked_by(member)
            if self.memory.target.options.resources.cpu_implied or not asked.cpu_implied:  # else it is free already
                lent[member.node_id] += asked.milli_cpu
        return dict(lent)

    # --- what stays -----------------------------------------------------------------------------------------------

    def rewrite(self) -> None:
        """Light changes reach what runs; a lost replica is told who took its place, a returned one that it is back."""
        successors = iter(self.created)
        for member in self.groups.lost:
            assert member.assignment is not None
            if member.assignment.superseded_by is None and (successor := next(successors, None)) is not None:
                superseded = replace(member.assignment, superseded_by=successor.replica_id)
                self.draft.actions.append(RewriteAssignment(superseded))
        ranks = self._settled_ranks()
        for member in self.groups.new:
            if member.replica_id not in self.drained and member.replica_id in self.draft.cluster.assignments:
                self._rewrite_kept(member, ranks)

    def _settled_ranks(self) -> Mapping[ReplicaId, Rank] | None:
        """The ranks that change; None while replicas come or go: a rank stands for its replica until that is gone."""
        groups = self.groups
        moving = self.created or self.drained or groups.old or groups.leaving or groups.lost or groups.failed
        if moving or len(groups.new) != self.wanted:
            return None
        return settled_ranks([member.assignment for member in groups.new if member.assignment is not None])

    def _rewrite_kept(self, member: Member, ranks: Mapping[ReplicaId, Rank] | None) -> None:
        assert member.assignment is not None
        desired = replace(member.assignment, spec=_as_placed(self.memory.target, member.assignment.spec))
        if ranks is not None and (member.replica_id in ranks or desired.world_size != self.wanted):
            desired = replace(desired, rank=ranks.get(member.replica_id, desired.rank), world_size=self.wanted)
        if desired.superseded_by is not None and not self._still_runs(desired.superseded_by):
            desired = replace(desired, superseded_by=None)
        if desired != member.assignment:
            self.draft.actions.append(RewriteAssignment(desired))

    def _still_runs(self, replica: ReplicaId) -> bool:
        assignment = self.draft.cluster.assignments.get(replica)
        return assignment is not None and assignment.goal is Goal.RUN and replica not in self.drained

    def route(self) -> None:
        meant = (*self.groups.new, *self.groups.old, *self.groups.lost)
        answering = [m for m in meant if m.replica_id not in self.drained]
        desired = desired_route(self.memory, answering)
        publish = publish_if_changed(self.draft.cluster.routes.get(self.key), desired)
        if publish is not None:
            self.draft.actions.append(publish)

    def finish(self) -> None:
        """Note progress, what is pending, and the end of the way."""
        gave = f"It gave up {self.memory.yielded} replicas: there is no room beside the version that follows."
        memory = replace(self.memory, pending=self.pending or (gave if self.memory.yielded else ""))
        standing_still = not (self.created or self.drained or self.groups.old or self.groups.failed or self.pending)
        if standing_still and len(self.groups.new) == self.wanted and self._all_ready():
            memory = complete(memory, self.draft.now_wall)
        if memory.phase is RolloutPhase.ROLLING:
            ready = sum(1 for m in self.groups.new if m.ready)
            memory = replace(memory, progress=max(memory.progress, ready))
        self.memory = memory

    def _all_ready(self) -> bool:
        return all(m.ready for m in self.groups.new)


def _as_placed(target: DeploymentSpec, placed: DeploymentSpec) -> DeploymentSpec:
    """`target` with the resources its replica was given. They are part of a version, so they are the same unless a
    client made the version up; what is placed must not grow without a look at the room."""
    if target.options.resources == placed.options.resources:
        return target
    return replace(target, options=replace(target.options, resources=placed.options.resources))
