"""A plan in the making: what all steps of one `reconcile` share. It lives for one call and is never kept."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from serve_rt.controller.census import Census, Member
from serve_rt.controller.plan import Action, CreateAssignment, DeleteAssignment, DeleteObserved, DrainAssignment
from serve_rt.controller.room import NodeRoom, measure_room
from serve_rt.controller.settings import ControlSettings
from serve_rt.model.cluster import Cluster
from serve_rt.model.ids import DeploymentKey, NodeId, ReplicaId, deployment_of, replica_id
from serve_rt.model.replica import Assignment, Goal, ReplicaState
from serve_rt.model.spec import DeploymentSpec

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_ALIVE = frozenset({ReplicaState.STARTING, ReplicaState.READY, ReplicaState.UNHEALTHY, ReplicaState.BACKOFF})


@dataclass(slots=True)
class Draft:
    cluster: Cluster
    census: Census
    settings: ControlSettings
    now: float
    now_wall: float
    actions: list[Action] = field(default_factory=list)
    wakes: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    given: set[ReplicaId] = field(default_factory=set)
    measured: dict[NodeId, NodeRoom] | None = None
    restless: bool = False
    """Something was looked at that others change: the application cannot be called at rest (`resting`)."""

    @property
    def room(self) -> dict[NodeId, NodeRoom]:
        """What is left of each node, measured when it is first asked for: most passes place nothing."""
        self.restless = True
        if self.measured is None:
            self.measured = measure_room(self.cluster, self.census)
        return self.measured

    def new_replica_id(self, key: DeploymentKey) -> ReplicaId:
        """An id never used before: the store's history and revision are in it. Planned twice at one revision (the
        first write may or may not have arrived), it is the same id and the second write changes nothing."""
        for suffix in _suffixes(f"{self.cluster.incarnation}|{self.cluster.revision}|{key.app}#{key.deployment}"):
            replica = replica_id(key, suffix)
            taken = replica in self.cluster.assignments or replica in self.cluster.observed or replica in self.given
            if not taken:
                self.given.add(replica)
                return replica
        raise AssertionError("the endless supply of replica ids ended")

    def drain(self, member: Member, reason: str) -> None:
        assert member.assignment is not None
        self.actions.append(DrainAssignment(replace(member.assignment, goal=Goal.DRAIN), reason))

    def adopt(self, member: Member, spec: DeploymentSpec, goal: Goal) -> Assignment:
        """Give a replica that runs without our word an assignment: to keep it (RUN) or to end it in order (DRAIN)."""
        assert member.observed is not None
        assignment = Assignment(
            replica_id=member.replica_id,
            node_id=member.node_id,
            app=deployment_of(member.replica_id).app,
            spec=replace(spec, version=member.version),
            goal=goal,
            devices=member.observed.devices,
            epoch=self.cluster.epoch,
        )
        self.actions.append(CreateAssignment(assignment, adopted=True))
        return assignment

    def finish_leaving(self, member: Member) -> bool:
        """Delete the assignment of a drained replica once its agent says that it is gone. One that was never observed
        may be starting right now, until its agent has read that it is to be drained."""
        read, written = self.cluster.applied.get(member.node_id), self.cluster.assigned_at.get(member.replica_id, 0)
        if member.observed is not None or (read is not None and read < written):
            self.restless = True  # what its agent has read is not the application's
            return False
        self.actions.append(DeleteAssignment(member.node_id, member.replica_id, "drained and gone"))
        return True

    def forget(self, member: Member, reason: str) -> None:
        """Delete both records of a replica whose node does not answer any more."""
        if member.assignment is not None:
            self.actions.append(DeleteAssignment(member.node_id, member.replica_id, reason))
        if member.observed is not None:
            self.actions.append(DeleteObserved(member.node_id, member.replica_id))


def runs(member: Member) -> bool:
    """It has a process, or its agent is about to start one."""
    return member.observed is not None and member.state in _ALIVE


def _suffixes(seed: str) -> Iterator[str]:
    for attempt in range(1_000_000):
        number = int.from_bytes(hashlib.sha256(f"{seed}|{attempt}".encode()).digest()[:8], "big")
        suffix = ""
        for _ in range(6):
            number, letter = divmod(number, len(_LETTERS))
            suffix += _LETTERS[letter]
        yield suffix
