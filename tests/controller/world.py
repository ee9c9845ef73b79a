"""A small world for reconcile: a Cluster value, agents that follow the rules, a clock that is turned by hand.

Plans are applied to the value directly. Agents act only in `agents()`: they pick up assignments, start, get ready,
drain, and report, each one step per call. Faults are methods. After every change the safety rules are checked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from serve_rt.controller.demand import Counts, NodeDemand
from serve_rt.controller.plan import (
    Action,
    CreateAssignment,
    DeleteAssignment,
    DeleteObserved,
    DrainAssignment,
    ForgetApplication,
    Plan,
    PublishRoute,
    RemoveApp,
    RemoveDeployment,
    RemoveMark,
    RemoveRoute,
    RemoveVersion,
    RewriteAssignment,
    SaveApplication,
    SaveDeployment,
    SaveVersion,
)
from serve_rt.controller.reconcile import look_again, reconcile
from serve_rt.controller.resting import Past
from serve_rt.controller.scaling import Scaling
from serve_rt.controller.settings import ControlSettings
from serve_rt.etcd.keys import Keys
from serve_rt.model.cluster import Cluster, MetaRecord
from serve_rt.model.ids import AppName, BlobDigest, DeploymentKey, DeploymentName, NodeId, ReplicaId, VersionId
from serve_rt.model.node import MarkRecord, NodeMark, NodeRecord
from serve_rt.model.replica import Assignment, Goal, Observed, ReplicaState
from serve_rt.model.resources import Gpu, NodeResources, Resources
from serve_rt.model.spec import ApplicationSpec, DeploymentOptions, DeploymentSpec
from serve_rt.model.tally import Tally
from serve_rt.store.fold import Change, Fold
from serve_rt.wire.records import encode

KEYS = Keys("test")


def deployment_spec(name: str = "d", version: str = "v1", **options: object) -> DeploymentSpec:
    resources = options.pop("resources", Resources(milli_cpu=1000))
    assert isinstance(resources, Resources)
    built = DeploymentOptions(resources=resources, **options)  # type: ignore[arg-type]  # options by name
    return DeploymentSpec(DeploymentName(name), VersionId(version), BlobDigest("0" * 64), None, built)


def application(name: str, *specs: DeploymentSpec, deploy_id: str = "d1", prefix: str | None = None) -> ApplicationSpec:
    """The first one is the ingress; as in real records, those that are called stand before those that call them."""
    return ApplicationSpec(AppName(name), deploy_id, specs[0].name, specs[::-1], route_prefix=prefix or f"/{name}")


def node_record(
    name: str, *, cpu: int = 4000, memory: int = 8 << 30, gpus: int = 0, session: str = "s1", **labels: str
) -> NodeRecord:
    devices = tuple(Gpu(f"GPU-{name}{i}", i, "fake", 16 << 30, fake=True) for i in range(gpus))
    return NodeRecord(NodeId(name), f"{name}:7300", session, "boot", NodeResources(cpu, memory, devices), labels)


@dataclass(slots=True)
class Process:
    """A replica as its node runs it."""

    assignment: Assignment
    state: ReplicaState = ReplicaState.STARTING
    incarnation: int = 1
    restarts: int = 0
    message: str = ""
    user_config: str | None = None
    """What it has taken."""


@dataclass
class World:
    settings: ControlSettings = field(default_factory=ControlSettings)
    now: float = 1000.0
    failing: set[str] = field(default_factory=set)
    """Versions whose constructor raises."""
    refused_configs: set[str] = field(default_factory=set)
    """A user_config at which `reconfigure` raises, in a running replica and in one that starts."""
    stuck: set[str] = field(default_factory=set)
    """Versions that never get ready."""
    down: set[NodeId] = field(default_factory=set)
    """Nodes that are switched off: nothing runs there that anybody could see."""
    demand: dict[DeploymentKey, int] = field(default_factory=dict)
    """Requests queued and running, as reported by the first node."""
    tallies: dict[DeploymentKey, dict[VersionId, Tally]] = field(default_factory=dict)
    """How the requests of guarded deployments went, as callers report it."""
    silent: bool = False
    """A reporter with demand has fallen silent."""

    def __post_init__(self) -> None:
        self.fold = Fold()
        self.past: Past | None = None
        self.records: dict[NodeId, NodeRecord] = {}
        self.processes: dict[NodeId, dict[ReplicaId, Process]] = {}
        self.revision = 1
        self.scaling = Scaling(self.now)
        self.floors: dict[tuple[str, str], int] = {}
        self.put(KEYS.meta, MetaRecord("test"))

    @property
    def cluster(self) -> Cluster:
        return self.fold.cluster

    # --- the store ------------------------------------------------------------------------------------------------

    def put(self, key: str, value: object) -> None:
        self.revision += 1
        change = Change(key.removeprefix(KEYS.all), encode(value), self.revision, self.revision)
        self.fold.apply([change], self.revision, self.now)

    def delete(self, key: str) -> None:
        self.revision += 1
        self.fold.apply([Change(key.removeprefix(KEYS.all), None, self.revision)], self.revision, self.now)

    # --- people ---------------------------------------------------------------------------------------------------

    def add_node(self, record: NodeRecord) -> None:
        self.records[record.node_id] = record
        self.processes.setdefault(record.node_id, {})
        self.put(KEYS.node(record.node_id), record)

    def deploy(self, app: ApplicationSpec) -> None:
        """As the API writes it: over a record that says "deleting" a new life begins."""
        before = self.cluster.apps.get(app.name)
        if before is not None and not app.deleting:
            reborn_at = before.mod_revision if before.value.deleting else before.value.reborn_at
            app = replace(app, reborn_at=reborn_at)
        self.put(KEYS.app(app.name), app)

    def delete_app(self, name: str) -> None:
        app = self.cluster.apps.get(AppName(name))
        if app is not None:
            self.deploy(replace(app.value, deleting=True))

    def mark(self, node: str, mark: NodeMark) -> None:
        self.put(KEYS.mark(NodeId(node)), MarkRecord(NodeId(node), mark))

    # --- the leader -----------------------------------------------------------------------------------------------

    def plan(self) -> Plan:
        targets = self.look()
        notes = self.scaling.notes
        cluster = replace(self.cluster, scale_targets=targets, scale_notes=notes, tallies=self.tallies)
        looked = look_again(self.past, cluster, self.now, self.settings)
        assert looked.plan == reconcile(cluster, self.now, self.settings), "a look at what has changed misses something"
        self.past = looked.past
        return looked.plan

    def look(self) -> dict[DeploymentKey, int]:
        """The autoscaler's word."""
        words = {node: NodeDemand({}, not self.silent, self.now) for node in self.cluster.nodes}
        if words:
            counts = {key: Counts(ongoing=count) for key, count in self.demand.items()}
            words[min(words)] = NodeDemand(counts, not self.silent, self.now)
        return self.scaling.look(self.cluster, words, self.now)

    def new_leader(self) -> None:
        self.scaling = Scaling(self.now)

    def step(self) -> Plan:
        plan = self.plan()
        for action in plan.actions:
            self.carry_out(action)
        return plan

    def carry_out(self, action: Action) -> None:
        match action:
            case SaveVersion(v):
                self.put(KEYS.version(v.spec.name, v.number), v)
            case SaveApplication(served):
                self.put(KEYS.served(served.app), served)
            case RemoveVersion(app, number):
                self.delete(KEYS.version(app, number))
            case ForgetApplication(app):
                self.delete(KEYS.served(app))
                for number in self.cluster.versions.get(app, {}):
                    self.delete(KEYS.version(app, number))
            case SaveDeployment(m):
                self.put(KEYS.deployment(m.app, m.deployment), m)
            case CreateAssignment(a) | RewriteAssignment(a) | DrainAssignment(a):
                self.put(KEYS.assign(a.node_id, a.replica_id), a)
            case DeleteAssignment(node, replica):
                self.delete(KEYS.assign(node, replica))
            case DeleteObserved(node, replica):
                self.delete(KEYS.observed(node, replica))
            case PublishRoute(r):
                self.put(KEYS.routes(r.app, r.deployment, 0), r)
            case RemoveRoute(key):
                self.delete(KEYS.routes(key.app, key.deployment, 0))
            case RemoveDeployment(key):
                self.delete(KEYS.deployment(key.app, key.deployment))
            case RemoveMark(node):
                self.delete(KEYS.mark(node))
            case RemoveApp(app):
                self.delete(KEYS.app(app))

    # --- the agents -----------------------------------------------------------------------------------------------

    def agents(self) -> bool:
        """Each registered agent does one step for each of its replicas; True when anything changed."""
        before = self.revision
        for node in sorted(self.cluster.nodes):
            self.agent(node)
        return self.revision != before

    def agent(self, node: NodeId) -> None:
        running = self.processes[node]
        assigned = {a.replica_id: a for a in self.cluster.assignments_of(node)}
        known = list(running)
        for replica, assignment in assigned.items():
            process = running.get(replica)
            if process is not None:
                process.assignment = assignment
            elif assignment.goal is Goal.RUN:
                running[replica] = Process(assignment)
                self._report(node, running[replica])
        for replica in known:
            self._advance(node, replica, assigned.get(replica))
        for replica, observed in self.cluster.observed.items():
            if observed.node_id == node and replica not in running:
                self.delete(KEYS.observed(node, replica))

    def _advance(self, node: NodeId, replica: ReplicaId, assignment: Assignment | None) -> None:
        process = self.processes[node][replica]
        leaving = assignment is None or assignment.goal is Goal.DRAIN
        if leaving and process.state is ReplicaState.DRAINING:
            del self.processes[node][replica]
            return
        if leaving:
            process.state = ReplicaState.DRAINING
        elif process.state is ReplicaState.STARTING and self._raises(process):
            process.state, process.message = ReplicaState.BACKOFF, "Traceback: RuntimeError: boom"
        elif process.state is ReplicaState.STARTING and process.assignment.spec.version not in self.stuck:
            process.state = ReplicaState.READY
        elif process.state is ReplicaState.BACKOFF:
            process.restarts, process.incarnation = process.restarts + 1, process.incarnation + 1
            process.state = ReplicaState.STARTING
        self._report(node, process)

    def _raises(self, process: Process) -> bool:
        spec = process.assignment.spec
        return spec.version in self.failing or spec.options.user_config_json in self.refused_configs

    def _report(self, node: NodeId, process: Process) -> None:
        replica, config = process.assignment.replica_id, process.assignment.spec.options.user_config_json
        refused = config in self.refused_configs and process.state is ReplicaState.READY
        process.user_config = process.user_config if refused else config
        report = Observed(
            replica_id=replica,
            node_id=node,
            session=self.records[node].session,
            state=process.state,
            incarnation=process.incarnation,
            address=f"{node}:{20000 + sum(map(ord, replica)) % 9999}",
            version=process.assignment.spec.version,
            restarts=process.restarts,
            message=process.message,
            devices=process.assignment.devices,
            user_config_json=process.user_config,
            refused_user_config_json=config if refused else None,
            config_error="ValueError: no such threshold" if refused else "",
        )
        if self.cluster.observed.get(replica) != report:
            self.put(KEYS.observed(node, replica), report)

    # --- faults ---------------------------------------------------------------------------------------------------

    def crash(self, replica: ReplicaId) -> None:
        for node, running in self.processes.items():
            process = running.get(replica)
            if process is not None and process.state in (ReplicaState.READY, ReplicaState.STARTING):
                process.state, process.message = ReplicaState.BACKOFF, "killed by signal 9"
                if node in self.cluster.nodes:
                    self._report(node, process)

    def lose(self, node: str) -> None:
        self.delete(KEYS.node(NodeId(node)))

    def back(self, node: str, *, rebooted: bool = False) -> None:
        record = self.records[NodeId(node)]
        self.records[NodeId(node)] = replace(record, session=record.session + "+")
        if rebooted:
            for process in self.processes[NodeId(node)].values():
                process.state, process.message = ReplicaState.BACKOFF, "the machine was restarted"
        self.put(KEYS.node(NodeId(node)), self.records[NodeId(node)])

    # --- rules ----------------------------------------------------------------------------------------------------

    def check_safety(self) -> None:
        """No device and no memory is promised twice, and every replica is somewhere once."""
        for node, record in self.records.items():
            held = [a for a in self.cluster.assignments.values() if a.node_id == node]
            milli = Counter[str]()
            for assignment in held:
                for share in assignment.devices:
                    milli[share.uuid] += share.milli
            over = {uuid: amount for uuid, amount in milli.items() if amount > 1000}
            assert not over, f"devices promised twice on {node}: {over}"
            memory = sum(a.spec.options.resources.memory_bytes for a in held)
            assert memory <= record.resources.memory_bytes, f"memory promised twice on {node}"

    def ready(self, app: str, deployment: str = "d") -> int:
        """Replicas that serve: routed, and their process is ready."""
        routes = [r for r in self.cluster.routes.values() if (r.app, r.deployment) == (app, deployment)]
        return sum(1 for route in routes for r in route.replicas if self._serves(r.replica_id))

    def _serves(self, replica: ReplicaId) -> bool:
        return any(
            replica in running and running[replica].state is ReplicaState.READY
            for node, running in self.processes.items()
            if node not in self.down
        )

    def settle(self, limit: int = 300) -> list[Plan]:
        """Leader and agents in turn until both are done."""
        plans: list[Plan] = []
        for _ in range(limit):
            plan = self.step()
            self.check_safety()
            plans += [plan] if plan else []
            if not self.agents() and not plan:
                return plans
        raise AssertionError(f"not settled after {limit} rounds; the last plan: {plans[-1]}")

    def members(self, app: str) -> Iterable[Assignment]:
        return (a for a in self.cluster.assignments.values() if a.app == app)
