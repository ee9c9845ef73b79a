"""I3: what the leader takes away of its own accord leaves enough ready replicas, and is out of the routes before.

Told of each transaction of a controller and of each drain. A replica counts as ready while the leader may still believe
it is: what just crashed, or hangs, was not taken away by anybody.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from serve_rt.etcd.values import Delete, Put
from serve_rt.model.cluster import Cluster
from serve_rt.model.ids import DeploymentKey, ReplicaId
from serve_rt.model.replica import Assignment, Goal
from serve_rt.model.routes import DeploymentRoute
from serve_rt.model.spec import DeploymentOptions
from serve_rt.wire.records import decode

if TYPE_CHECKING:
    from tests.simulation.replica import SimReplica
    from tests.simulation.world import SimWorld

BELIEVED_S = 20.0
"""So long after its end, or the beginning of its trouble, the leader may count on a replica: a lease and more."""
TOGETHER_S = 4.0
"""Nodes that were cut off in one moment vanish within so long: their leases were renewed at different times."""
NEWS_S = 9.0
"""So long after a node's return a leader may not know of it: its watch lags."""
SLACK_S = 1.0


class Floor:
    def __init__(self, world: SimWorld) -> None:
        self._world = world
        self._goals: dict[str, Goal] = {}
        self._created_at: dict[str, int] = {}
        """Revisions."""
        self._fell: dict[ReplicaId, float] = {}
        """When a ready replica was hurt or ended."""
        self._superseded: set[str] = set()
        self._gone_since: dict[str, float] = {}
        """When a node was first seen without its registration."""
        self._absences: dict[str, tuple[float, float]] = {}
        """The last time of each that is back."""
        self._empty: set[str] = set()
        """Nodes that vanished with nothing assigned to them: the leader does not count these (a known weakness)."""

    def look_at_nodes(self) -> None:
        """Each second: leases end without a transaction."""
        self._look()
        self._world.later(1.0, self.look_at_nodes)

    def _look(self) -> None:
        now = self._world.now
        for name, machine in self._world.machines.items():
            if self._world.etcd.machine.get(self._world.keys.node(machine.node_id)) is not None:
                if name in self._gone_since:
                    self._absences[name] = (self._gone_since.pop(name), now)
                self._empty.discard(name)
                continue
            self._gone_since.setdefault(name, now)
            if not any(each.node_id == name for each in self._world.assignments().values()):
                self._empty.add(name)

    def fell(self, replica: SimReplica) -> None:
        self._fell[replica.replica_id] = self._world.now

    def controller_wrote(self, then: Sequence[Put | Delete]) -> None:
        for operation in then:
            self._replaced(operation)
        taken = [replica for operation in then if (replica := self._taken(operation)) is not None]
        if not taken:
            return
        cluster = self._world.cluster()
        for key in {replica.key: None for replica in taken}:
            self._check(cluster, key, [replica for replica in taken if replica.key == key])

    def _replaced(self, operation: Put | Delete) -> None:
        """A node's replicas are started elsewhere: only when it was away for its grace, and not when most are."""
        path = operation.key.removeprefix(self._world.keys.all)
        if not path.startswith("assign/") or isinstance(operation, Delete):
            return
        assignment = decode(operation.value, Assignment, source=path)
        if assignment.superseded_by is None or path in self._superseded:
            if assignment.superseded_by is None:
                self._superseded.discard(path)
            return
        self._superseded.add(path)
        self._look()
        now, node = self._world.now, assignment.node_id
        since, until = self._gone_since.get(node), now
        if since is None:
            since, until = self._absences.get(node, (now, now))
        if until - since < self._world.settings.node_grace_s - SLACK_S or now - until > NEWS_S:
            self._world.invariants.failed(f"grace: {path} is replaced, its node was gone from {since} to {until}")
        gone = {name: each for name, each in self._gone_since.items() if name not in self._empty}
        with_it = [each for each in gone.values() if abs(each - since) <= TOGETHER_S]
        if 2 * len(with_it) > len(self._world.machines):
            self._world.invariants.failed(f"mass: {path} is replaced, and most nodes vanished at once")

    def _taken(self, operation: Put | Delete) -> SimReplica | None:
        """The replica that served, and that this write takes away."""
        path = operation.key.removeprefix(self._world.keys.all)
        if not path.startswith("assign/"):
            return None
        goal = decode(operation.value, Assignment, source=path).goal if isinstance(operation, Put) else None
        before = self._goals.pop(path, None)
        if goal is not None:
            self._goals[path] = goal
            if before is None and (kv := self._world.etcd.machine.get(operation.key)) is not None:
                self._created_at[path] = kv.create_revision
        if before is not Goal.RUN or goal is Goal.RUN:
            return None
        _, node, name = path.split("/")
        registered = self._world.etcd.machine.get(self._world.keys.node(self._world.machines[node].node_id))
        running = (r for r in self._world.machines[node].replicas if r.replica_id == name and r.healthy)
        return next(running, None) if registered is not None else None

    def _check(self, cluster: Cluster, key: DeploymentKey, taken: list[SimReplica]) -> None:
        memory, app, served = cluster.deployments.get(key), cluster.apps.get(key.app), cluster.serving(key.app)
        if memory is None or app is None or served is None or app.value.deleting or memory.yielded:
            return
        taken = [each for each in taken if self._created_at.get(_path(each), 0) > app.value.reborn_at]
        if not taken:
            return  # of a life that was deleted
        needed = [spec for version in (app.value, served) if (spec := version.deployment(key.deployment)) is not None]
        if not needed:
            return
        wanted = min(_size(spec.options, memory.scale_target) for spec in (memory.target, *needed))
        floor = max(0, wanted - memory.target.options.max_unavailable)
        left = self._believed_ready(cluster, key)
        if left < floor:
            self._world.invariants.failed(f"I3: {left} of {key} are ready, {floor} must be, and {taken} are taken away")

    def _believed_ready(self, cluster: Cluster, key: DeploymentKey) -> int:
        """Replicas that shall run and are ready, or were until a moment ago."""
        count = 0
        for replica_id, assignment in cluster.assignments.items():
            if assignment.key != key or assignment.goal is not Goal.RUN:
                continue
            running = [r for r in self._world.machines[assignment.node_id].replicas if r.replica_id == replica_id]
            recently = self._world.now - self._fell.get(replica_id, float("-inf")) < BELIEVED_S
            count += recently or any(r.ready or (r.was_ready and r.process.paused) for r in running)
        return count

    def drained(self, replica: SimReplica) -> None:
        """I6: order down: the route first."""
        cluster = self._world.cluster()
        assignment, app = cluster.assignments.get(replica.replica_id), cluster.apps.get(replica.key.app)
        if assignment is None or assignment.goal is Goal.RUN or app is None:
            return
        route: DeploymentRoute | None = cluster.routes.get(replica.key)
        listed = {(r.replica_id, r.incarnation) for r in route.replicas} if route is not None else set()
        if (replica.replica_id, replica.incarnation) in listed:
            self._world.invariants.failed(f"I6: {replica} is drained while it is in the routes")


def _path(replica: SimReplica) -> str:
    return f"assign/{replica.assignment.node_id}/{replica.replica_id}"


def _size(options: DeploymentOptions, scale_target: int | None) -> int:
    if options.autoscaling is None:
        return options.num_replicas
    return scale_target if scale_target is not None else options.autoscaling.min_replicas
