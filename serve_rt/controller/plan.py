"""What the leader decided to do: a tuple of actions, each one small and safe to repeat.

Made by `reconcile`, carried out by `apply` in the order of `order()`: words that lose nothing first, so that a leader
that dies between two transactions leaves a state the next one goes on from. A settled cluster has an empty plan.
"""

from __future__ import annotations

from dataclasses import dataclass

from serve_rt.model.application import ApplicationMemory, AppVersion
from serve_rt.model.cluster import DeploymentMemory
from serve_rt.model.ids import AppName, DeploymentKey, NodeId, ReplicaId
from serve_rt.model.replica import Assignment
from serve_rt.model.routes import DeploymentRoute


@dataclass(frozen=True, slots=True)
class SaveVersion:
    version: AppVersion


@dataclass(frozen=True, slots=True)
class SaveApplication:
    """Also moves an application's routes, where another version serves from now on."""

    memory: ApplicationMemory


@dataclass(frozen=True, slots=True)
class SaveDeployment:
    memory: DeploymentMemory


@dataclass(frozen=True, slots=True)
class CreateAssignment:
    assignment: Assignment
    adopted: bool = False
    """The replica runs already, without an assignment."""


@dataclass(frozen=True, slots=True)
class RewriteAssignment:
    """A light change or `superseded_by`: nothing restarts."""

    assignment: Assignment


@dataclass(frozen=True, slots=True)
class PublishRoute:
    route: DeploymentRoute
    urgent: bool
    """False: may wait for others (50 ms) so that a burst of ready replicas is one write."""


@dataclass(frozen=True, slots=True)
class DrainAssignment:
    assignment: Assignment
    reason: str


@dataclass(frozen=True, slots=True)
class DeleteAssignment:
    node_id: NodeId
    replica_id: ReplicaId
    reason: str


@dataclass(frozen=True, slots=True)
class DeleteObserved:
    """Only for a node that is given up; otherwise its agent does it."""

    node_id: NodeId
    replica_id: ReplicaId


@dataclass(frozen=True, slots=True)
class RemoveRoute:
    key: DeploymentKey


@dataclass(frozen=True, slots=True)
class RemoveDeployment:
    key: DeploymentKey


@dataclass(frozen=True, slots=True)
class RemoveVersion:
    app: AppName
    number: int


@dataclass(frozen=True, slots=True)
class ForgetApplication:
    """Its memory and its versions."""

    app: AppName


@dataclass(frozen=True, slots=True)
class RemoveMark:
    """Of a node that was forgotten: nothing is left of it, or it is here again."""

    node_id: NodeId


@dataclass(frozen=True, slots=True)
class RemoveApp:
    app: AppName
    mod_revision: int
    """Only if it is still this record: a deploy that came in meanwhile wins."""


Action = (
    SaveVersion
    | SaveDeployment
    | SaveApplication
    | RemoveVersion
    | ForgetApplication
    | CreateAssignment
    | RewriteAssignment
    | PublishRoute
    | DrainAssignment
    | DeleteAssignment
    | DeleteObserved
    | RemoveRoute
    | RemoveDeployment
    | RemoveMark
    | RemoveApp
)
_ORDER: tuple[type[Action], ...] = (
    SaveVersion,
    SaveDeployment,
    CreateAssignment,
    RewriteAssignment,
    PublishRoute,
    SaveApplication,
    RemoveVersion,
    DrainAssignment,
    DeleteAssignment,
    DeleteObserved,
    RemoveRoute,
    RemoveDeployment,
    ForgetApplication,
    RemoveMark,
    RemoveApp,
)
_RANK = {kind: rank for rank, kind in enumerate(_ORDER)}


@dataclass(frozen=True, slots=True)
class Plan:
    actions: tuple[Action, ...] = ()
    wake_at: float | None = None
    """Monotonic time at which a decision changes although nothing else does (a grace ends, a deadline passes)."""
    notes: tuple[str, ...] = ()
    """What is held back and why, for the log and status."""

    def __bool__(self) -> bool:
        return bool(self.actions)


def order(actions: list[Action]) -> tuple[Action, ...]:
    return tuple(sorted(actions, key=lambda action: _RANK[type(action)]))


def describe(action: Action) -> str:
    """One line for logs and for the transcripts of the scenario tests."""
    match action:
        case SaveDeployment(m):
            why = f" ({m.message.splitlines()[-1][:80]})" if m.message else ""
            pending = f" pending: {m.pending}" if m.pending else ""
            scaled = f" replicas={m.scale_target}" if m.scale_target is not None else ""
            way = f" {'upscale' if m.scaling.direction > 0 else 'downscale'} held for {m.scaling.held_s:g} s"
            scaled += way if m.scaling.direction else ""
            return f"save {m.app}#{m.deployment} {m.phase.name} target={m.target.version}{scaled}{why}{pending}"
        case SaveVersion(version):
            return f"version {version.spec.name} {version.number}"
        case SaveApplication(served):
            good = f" good={served.last_good}" if served.last_good is not None else ""
            why = f" refused: {served.message.splitlines()[-1][:80]}" if served.refused and served.message else ""
            return f"serve {served.app} asked={served.asked} serving={served.serving}{good}{why}"
        case RemoveVersion(app, number):
            return f"remove version {app} {number}"
        case ForgetApplication(app):
            return f"forget {app}"
        case CreateAssignment(a, adopted):
            devices = "".join(f" {share.uuid}:{share.milli}" for share in a.devices)
            return f"{'adopt' if adopted else 'create'} {a.replica_id} on {a.node_id} {a.spec.version}{devices}"
        case RewriteAssignment(a):
            superseded = f" superseded_by={a.superseded_by}" if a.superseded_by else ""
            return f"rewrite {a.replica_id} on {a.node_id} {a.spec.version}{superseded}"
        case PublishRoute(r, urgent):
            replicas = " ".join(f"{x.replica_id}{'?' if x.suspect else ''}" for x in r.replicas) or "-"
            return f"route {r.app}#{r.deployment} {r.availability.name} [{replicas}]{' at once' if urgent else ''}"
        case DrainAssignment(a, reason):
            return f"drain {a.replica_id} on {a.node_id}: {reason}"
        case DeleteAssignment(node, replica, reason):
            return f"delete {replica} on {node}: {reason}"
        case DeleteObserved(node, replica):
            return f"forget {replica} on {node}"
        case RemoveRoute(key):
            return f"remove route {key.app}#{key.deployment}"
        case RemoveDeployment(key):
            return f"remove deployment {key.app}#{key.deployment}"
        case RemoveMark(node):
            return f"forget the mark of {node}"
        case RemoveApp(app, _):
            return f"remove app {app}"
