"""A large cluster as a value, at rest: what the real reconcile makes of many applications and agents that obey at once.

Used by `control_bench`; the records pass through the store's own encoding and `Fold`, as they would from etcd.
"""

from __future__ import annotations

from collections.abc import Iterable

from serve_rt.controller.plan import (
    Action,
    CreateAssignment,
    PublishRoute,
    RemoveVersion,
    RewriteAssignment,
    SaveApplication,
    SaveDeployment,
    SaveVersion,
)
from serve_rt.controller.reconcile import reconcile
from serve_rt.controller.settings import ControlSettings
from serve_rt.etcd.keys import Keys
from serve_rt.model.cluster import Cluster, MetaRecord
from serve_rt.model.ids import AppName, BlobDigest, DeploymentName, NodeId, VersionId
from serve_rt.model.node import NodeRecord
from serve_rt.model.replica import Assignment, Observed, ReplicaState
from serve_rt.model.resources import NodeResources, Resources
from serve_rt.model.spec import ApplicationSpec, DeploymentOptions, DeploymentSpec
from serve_rt.store.fold import Change, Fold
from serve_rt.wire.records import encode

KEYS = Keys("bench")
SETTINGS = ControlSettings()
_PASSES = 20


class BigCluster:
    def __init__(self, nodes: int, apps: int, replicas_per_app: int) -> None:
        self.fold = Fold()
        self.revision, self.now = 1, 1000.0
        self.records: dict[str, bytes] = {}
        """As they stand in the store, by key."""
        names = [f"n{number:04}" for number in range(nodes)]
        self.put({KEYS.meta: MetaRecord("bench")} | {KEYS.node(NodeId(name)): _node(name) for name in names})
        self.put({KEYS.app(AppName(f"a{n:03}")): application(n, replicas_per_app) for n in range(apps)})
        self._come_to_rest()

    @property
    def cluster(self) -> Cluster:
        return self.fold.cluster

    def put(self, records: dict[str, object]) -> None:
        self.revision += 1
        encoded = {key: encode(record) for key, record in records.items()}
        self.records |= encoded
        changes = [Change(k.removeprefix(KEYS.all), data, self.revision, self.revision) for k, data in encoded.items()]
        self.fold.apply(changes, self.revision, self.now)

    def delete(self, key: str) -> None:
        self.revision += 1
        self.records.pop(key, None)
        self.fold.apply([Change(key.removeprefix(KEYS.all), None, self.revision)], self.revision, self.now)

    def obey(self, actions: Iterable[Action]) -> None:
        """Write what the plan asks for; every replica it creates is ready at once."""
        actions = list(actions)
        self.put(_records_of(actions))
        for action in actions:
            if isinstance(action, RemoveVersion):
                self.delete(KEYS.version(action.app, action.number))
        unseen = [a for r, a in self.cluster.assignments.items() if r not in self.cluster.observed]
        self.put({KEYS.observed(a.node_id, a.replica_id): ready(a) for a in unseen})

    def _come_to_rest(self) -> None:
        for _ in range(_PASSES):
            plan = reconcile(self.cluster, self.now, SETTINGS)
            if not plan:
                return
            self.obey(plan.actions)
        raise AssertionError("the cluster does not come to rest")


def application(number: int, replicas: int) -> ApplicationSpec:
    options = DeploymentOptions(num_replicas=replicas, resources=Resources(milli_cpu=100))
    spec = DeploymentSpec(DeploymentName("model"), VersionId("v1"), BlobDigest("0" * 64), None, options)
    return ApplicationSpec(AppName(f"a{number:03}"), "d1", spec.name, (spec,), route_prefix=f"/a{number:03}")


def ready(assignment: Assignment, incarnation: int = 1) -> Observed:
    return Observed(
        replica_id=assignment.replica_id,
        node_id=assignment.node_id,
        session="s1",
        state=ReplicaState.READY,
        incarnation=incarnation,
        address="10.0.0.1:20000",
        version=assignment.spec.version,
    )


def _records_of(actions: Iterable[Action]) -> dict[str, object]:
    """What the leader would write; only the kinds that bringing applications up and adding to them takes."""
    records: dict[str, object] = {}
    for action in actions:
        match action:
            case SaveVersion(v):
                records[KEYS.version(v.spec.name, v.number)] = v
            case SaveApplication(served):
                records[KEYS.served(served.app)] = served
            case SaveDeployment(m):
                records[KEYS.deployment(m.app, m.deployment)] = m
            case CreateAssignment(a) | RewriteAssignment(a):
                records[KEYS.assign(a.node_id, a.replica_id)] = a
            case PublishRoute(r):
                records[KEYS.routes(r.app, r.deployment, 0)] = r
            case RemoveVersion():
                pass  # a delete, not a record
            case _:
                raise AssertionError(f"{action} is no part of growing")
    return records


def _node(name: str) -> NodeRecord:
    return NodeRecord(NodeId(name), f"{name}:7300", "s1", "boot", NodeResources(64_000, 1 << 40))
