"""Who is where: every replica joined with its node's standing, grouped by deployment.

First step of `reconcile`; pure. A node is LIVE while registered; then in GRACE (nothing changes), then LOST (its
replicas are UNKNOWN, suspect in routes, replaced elsewhere), then GIVEN_UP (its records are deleted). When more than
half of at least three nodes vanish within one grace period it is probably us, and nobody is LOST until half are back,
and for one more grace: the others are on their way.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from serve_rt.controller.settings import ControlSettings
from serve_rt.model.cluster import Absence, Cluster
from serve_rt.model.ids import DeploymentKey, NodeId, ReplicaId, VersionId, deployment_of
from serve_rt.model.node import NodeMark
from serve_rt.model.replica import Assignment, Goal, Observed, ReplicaState

MIN_NODES_TO_DOUBT = 3


class NodeStanding(enum.Enum):
    LIVE = "LIVE"
    GRACE = "GRACE"
    LOST = "LOST"
    GIVEN_UP = "GIVEN_UP"


@dataclass(frozen=True, slots=True)
class Member:
    """One replica of a deployment: the leader's word, the agent's report, and how far the report can be trusted."""

    replica_id: ReplicaId
    node_id: NodeId
    standing: NodeStanding
    assignment: Assignment | None
    """None: unowned, it runs without our word."""
    observed: Observed | None
    confirmed: bool
    """The report was written in the agent's present session."""
    moving: bool = False
    """Its node is being drained by the operator."""

    @property
    def version(self) -> VersionId:
        if self.assignment is not None:
            return self.assignment.spec.version
        assert self.observed is not None
        return VersionId(self.observed.version)

    @property
    def wanted(self) -> bool:
        """Meant to run: counts for the target."""
        return self.assignment is not None and self.assignment.goal is Goal.RUN

    @property
    def reachable(self) -> bool:
        return self.standing in (NodeStanding.LIVE, NodeStanding.GRACE)

    @property
    def state(self) -> ReplicaState:
        return self.observed.state if self.observed is not None else ReplicaState.STARTING

    @property
    def answers(self) -> bool:
        """As far as anybody has reported, requests can go there."""
        return self.observed is not None and self.state is ReplicaState.READY and bool(self.observed.address)

    @property
    def ready(self) -> bool:
        """Answers for sure: only such replicas let others be taken away."""
        return self.answers and self.confirmed and self.standing is NodeStanding.LIVE

    @property
    def failed(self) -> bool:
        return self.state is ReplicaState.FAILED

    @property
    def failures(self) -> int:
        """How often its process or constructor has failed."""
        if self.observed is None:
            return 0
        # One that its agent has taken on and not started yet is in BACKOFF, too.
        began = self.observed.incarnation > 0
        return self.observed.restarts + (began and self.state in (ReplicaState.BACKOFF, ReplicaState.FAILED))


@dataclass(frozen=True, slots=True)
class Census:
    standings: Mapping[NodeId, NodeStanding]
    members: Mapping[DeploymentKey, tuple[Member, ...]]
    suspended: bool
    """Replacing lost nodes is suspended: most nodes vanished at once."""
    wake_at: float | None


def take_census(
    cluster: Cluster, now: float, settings: ControlSettings, before: tuple[Cluster, Census] | None = None
) -> Census:
    """`before` is an earlier cluster with its census: members of deployments that have not changed are taken over."""
    suspended = most_vanished_at_once(cluster, now, settings)
    standings = {node: NodeStanding.LIVE for node in cluster.nodes}
    for node, since in cluster.gone_since.items():
        forgotten = cluster.mark(node) is NodeMark.FORGOTTEN
        standings[node] = NodeStanding.GIVEN_UP if forgotten else _standing(now - since, suspended, settings)
    return Census(
        standings=standings,
        members=_members(cluster, standings) if before is None else _members_since(*before, cluster, standings),
        suspended=suspended,
        wake_at=_wake_at(cluster, now, settings),
    )


def _standing(gone_s: float, suspended: bool, settings: ControlSettings) -> NodeStanding:
    if gone_s >= settings.node_given_up_s:
        return NodeStanding.GIVEN_UP
    if gone_s >= settings.node_grace_s and not suspended:
        return NodeStanding.LOST
    return NodeStanding.GRACE


def most_vanished_at_once(cluster: Cluster, now: float, settings: ControlSettings) -> bool:
    """More than half of the nodes vanished within one grace period, they are still away, and nobody said that they
    will not come back: it is probably us."""
    gone = [
        since
        for node, since in cluster.gone_since.items()
        if now - since < settings.node_given_up_s and cluster.mark(node) is not NodeMark.FORGOTTEN
    ]
    if not gone:
        return False
    known = len(cluster.nodes) + len(gone)
    gone += [a.since for node, a in cluster.absences.items() if node in cluster.nodes and _just_back(a, now, settings)]
    gone.sort()
    if known < MIN_NODES_TO_DOUBT or 2 * len(gone) <= known:
        return False
    needed = known // 2 + 1
    return any(gone[i + needed - 1] - gone[i] <= settings.node_grace_s for i in range(len(gone) - needed + 1))


def _just_back(absence: Absence, now: float, settings: ControlSettings) -> bool:
    return now - absence.until < settings.node_grace_s


def _wake_at(cluster: Cluster, now: float, settings: ControlSettings) -> float | None:
    gone = cluster.gone_since.values()
    times = [since + wait for since in gone for wait in (settings.node_grace_s, settings.node_given_up_s)]
    if gone:
        times += [absence.until + settings.node_grace_s for absence in cluster.absences.values()]
    return min((time for time in times if time > now), default=None)


def _members(cluster: Cluster, standings: Mapping[NodeId, NodeStanding]) -> dict[DeploymentKey, tuple[Member, ...]]:
    return _grouped(cluster, standings, cluster.assignments.keys() | cluster.observed.keys())


def _members_since(
    then: Cluster, census: Census, cluster: Cluster, standings: Mapping[NodeId, NodeStanding]
) -> dict[DeploymentKey, tuple[Member, ...]]:
    """The members of today: of those groups anew in which a replica, or the node of one, is not as it was."""
    replicas = _changed(then.assignments, cluster.assignments) | _changed(then.observed, cluster.observed)
    touched = {deployment_of(replica) for replica in replicas}
    nodes = _changed_nodes(then, census.standings, cluster, standings)
    if nodes:
        touched |= {key for key, members in census.members.items() if any(m.node_id in nodes for m in members)}
    if not touched:
        return dict(census.members)
    replicas |= {member.replica_id for key in touched for member in census.members.get(key, ())}
    there = {r for r in replicas if r in cluster.assignments or r in cluster.observed}
    kept = {key: members for key, members in census.members.items() if key not in touched}
    return kept | _grouped(cluster, standings, there)


def _changed(then: Mapping[ReplicaId, object], now: Mapping[ReplicaId, object]) -> set[ReplicaId]:
    """By identity: records are replaced, never changed, and the store's maps share those that stayed."""
    if then is now:
        return set()
    changed = {replica for replica, record in now.items() if then.get(replica) is not record}
    return changed | (then.keys() - now.keys())


def _changed_nodes(
    then: Cluster,
    stood: Mapping[NodeId, NodeStanding],
    cluster: Cluster,
    standings: Mapping[NodeId, NodeStanding],
) -> set[NodeId]:
    def word(of: Cluster, standing: NodeStanding | None, node: NodeId) -> tuple[object, ...]:
        record = of.nodes.get(node)
        return (standing, record.session if record is not None else None, of.mark(node) is NodeMark.DRAINING)

    nodes = stood.keys() | standings.keys()
    return {node for node in nodes if word(then, stood.get(node), node) != word(cluster, standings.get(node), node)}


def _grouped(
    cluster: Cluster, standings: Mapping[NodeId, NodeStanding], replicas: Iterable[ReplicaId]
) -> dict[DeploymentKey, tuple[Member, ...]]:
    draining = {node for node in standings if cluster.mark(node) is NodeMark.DRAINING}
    groups: dict[DeploymentKey, list[Member]] = {}
    for replica in sorted(replicas):
        assignment, observed = cluster.assignments.get(replica), cluster.observed.get(replica)
        node = assignment.node_id if assignment is not None else cluster.observed[replica].node_id
        record = cluster.nodes.get(node)
        member = Member(
            replica_id=replica,
            node_id=node,
            standing=standings[node],
            assignment=assignment,
            observed=observed,
            confirmed=observed is not None and record is not None and observed.session == record.session,
            moving=node in draining,
        )
        groups.setdefault(deployment_of(replica), []).append(member)
    return {key: tuple(members) for key, members in groups.items()}
