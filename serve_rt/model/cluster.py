"""The whole cluster as one frozen value: what the leader decides on and what agents answer `serve status` from.

Made and kept current by `serve_rt.store.mirror` from etcd; read by `serve_rt.controller.reconcile` (pure) and
`serve_rt.controller.status`. The two `*_since` maps are the reader's own sightings on its monotonic clock: they are
not in the store, because wall clocks of different machines do not agree and jump.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from serve_rt.model.application import ApplicationMemory
from serve_rt.model.ids import AppName, BlobDigest, DeploymentKey, DeploymentName, NodeId, ReplicaId, VersionId
from serve_rt.model.node import MarkRecord, NodeMark, NodeRecord
from serve_rt.model.proxies import ProxyRecord
from serve_rt.model.replica import Assignment, Observed
from serve_rt.model.routes import DeploymentRoute
from serve_rt.model.scaling import ScalingMemory
from serve_rt.model.spec import ApplicationSpec, DeploymentSpec
from serve_rt.model.status import DeploymentStatusTrigger
from serve_rt.model.tally import Tally
from serve_rt.model.transitions import Transitions

T = TypeVar("T")
KEPT_VERSIONS = 5


@dataclass(frozen=True, slots=True)
class Versioned(Generic[T]):
    """A record with the revision that wrote it: what a compare-and-swap needs."""

    value: T
    mod_revision: int


@dataclass(frozen=True, slots=True)
class MetaRecord:
    """`/meta`: written once per life of the store. Another incarnation means another history."""

    incarnation: str
    created_at_s: float = 0.0
    schema: int = 1


@dataclass(frozen=True, slots=True)
class LeaderRecord:
    """`/leader`, under the leader's lease; the key's create_revision is the epoch."""

    node_id: NodeId
    address: str
    """host:port of the Controller service."""
    pid: int = 0
    started_at_s: float = 0.0
    schema: int = 1


class RolloutPhase(enum.Enum):
    """Where a deployment stands on its way to what was asked."""

    ROLLING = "ROLLING"
    """Replicas of the target version are being brought up and old ones taken away."""
    UPSCALING = "UPSCALING"
    DOWNSCALING = "DOWNSCALING"
    STEADY = "STEADY"
    """What was asked has been reached once; replicas lost since are replaced without a change of phase."""
    FAILED = "FAILED"
    """The target never got ready and there is no good version to return to. Agents go on trying with back-off."""
    ROLLING_BACK = "ROLLING_BACK"
    """The asked version was refused; the last good one is the target again."""
    ROLLED_BACK = "ROLLED_BACK"
    DELETING = "DELETING"


ROLLOUT_TRANSITIONS: Transitions[RolloutPhase] = {
    RolloutPhase.ROLLING: frozenset(
        {RolloutPhase.STEADY, RolloutPhase.FAILED, RolloutPhase.ROLLING_BACK, RolloutPhase.DELETING}
    ),
    RolloutPhase.UPSCALING: frozenset(
        {
            RolloutPhase.STEADY,
            RolloutPhase.DOWNSCALING,
            RolloutPhase.ROLLING,
            RolloutPhase.ROLLING_BACK,
            RolloutPhase.DELETING,
        }
    ),
    RolloutPhase.DOWNSCALING: frozenset(
        {
            RolloutPhase.STEADY,
            RolloutPhase.UPSCALING,
            RolloutPhase.ROLLING,
            RolloutPhase.ROLLING_BACK,
            RolloutPhase.DELETING,
        }
    ),
    RolloutPhase.STEADY: frozenset(
        {
            RolloutPhase.ROLLING,
            RolloutPhase.UPSCALING,
            RolloutPhase.DOWNSCALING,
            RolloutPhase.ROLLING_BACK,
            RolloutPhase.DELETING,
        }
    ),
    RolloutPhase.FAILED: frozenset(
        {RolloutPhase.STEADY, RolloutPhase.ROLLING, RolloutPhase.ROLLING_BACK, RolloutPhase.DELETING}
    ),
    RolloutPhase.ROLLING_BACK: frozenset({RolloutPhase.ROLLED_BACK, RolloutPhase.ROLLING, RolloutPhase.DELETING}),
    RolloutPhase.ROLLED_BACK: frozenset({RolloutPhase.ROLLING, RolloutPhase.DELETING}),
    RolloutPhase.DELETING: frozenset({RolloutPhase.ROLLING}),
}


@dataclass(frozen=True, slots=True)
class DeploymentMemory:
    """`/deployments/<app>/<deployment>`: what the leader must remember beyond the spec; survives its death."""

    app: AppName
    deployment: DeploymentName
    target: DeploymentSpec
    """What the replicas are brought to: the asked spec, or the last good one after a rollback."""
    generation: int = 0
    """mod_revision of the application record that was taken in last."""
    phase: RolloutPhase = RolloutPhase.ROLLING
    versions: tuple[DeploymentSpec, ...] = ()
    """The last KEPT_VERSIONS specs, newest first, one per version: what a rollback can return to."""
    last_good: VersionId | None = None
    refused: VersionId | None = None
    """The asked version that was rolled back from; not tried again before the next deploy."""
    progress: int = 0
    """Most replicas of the target seen ready since the phase began: each one more renews the progress deadline."""
    scale_target: int | None = None
    """What the autoscaler decided last; None before its first decision, and without autoscaling."""
    scaling: ScalingMemory = field(default_factory=ScalingMemory)
    failure_offset: int = 0
    """Failures of replicas replaced since, less those that had happened when the same version was asked for again."""
    trigger: DeploymentStatusTrigger = DeploymentStatusTrigger.CONFIG_UPDATE_STARTED
    yielded: int = 0
    """Replicas given up for want of room, by a deployment that the asked version of its application does not have."""
    guard_passed: VersionId | None = None
    """The version whose first replica has served its window beside the old ones."""
    message: str = ""
    """Why the phase is what it is: the last traceback, or the reason of a rollback."""
    pending: str = ""
    """Why replicas are missing that nobody can hold, and what would make them fit."""
    since_s: float = 0.0
    """Wall clock of the last change of phase, for display."""
    history: tuple[str, ...] = ()
    """The last moves, `version phase`, for people and for InvalidTransition."""
    schema: int = 1

    @property
    def key(self) -> DeploymentKey:
        return DeploymentKey(self.app, self.deployment)

    def spec_of(self, version: VersionId) -> DeploymentSpec | None:
        return next((spec for spec in self.versions if spec.version == version), None)


@dataclass(frozen=True, slots=True)
class Absence:
    """For how long a node that held replicas was not registered, on the reader's monotonic clock."""

    since: float
    until: float


@dataclass(frozen=True, slots=True)
class Cluster:
    """Everything the store says at `revision`."""

    revision: int = 0
    incarnation: str = ""
    """"" while `/meta` is not written yet."""
    leader: LeaderRecord | None = None
    epoch: int = 0
    """create_revision of the leader key; 0 without a leader."""
    apps: Mapping[AppName, Versioned[ApplicationSpec]] = field(default_factory=dict)
    deployments: Mapping[DeploymentKey, DeploymentMemory] = field(default_factory=dict)
    served: Mapping[AppName, ApplicationMemory] = field(default_factory=dict)
    versions: Mapping[AppName, Mapping[int, ApplicationSpec]] = field(default_factory=dict)
    """The last versions of each application, by number."""
    nodes: Mapping[NodeId, NodeRecord] = field(default_factory=dict)
    registered_at: Mapping[NodeId, int] = field(default_factory=dict)
    """Revision of each registration's first write; the agent's later writes and its successors keep it."""
    proxy: ProxyRecord | None = None
    """None before the first agent has written it."""
    marks: Mapping[NodeId, MarkRecord] = field(default_factory=dict)
    assignments: Mapping[ReplicaId, Assignment] = field(default_factory=dict)
    assigned_at: Mapping[ReplicaId, int] = field(default_factory=dict)
    """Revision of each assignment's last change."""
    observed: Mapping[ReplicaId, Observed] = field(default_factory=dict)
    routes: Mapping[DeploymentKey, DeploymentRoute] = field(default_factory=dict)
    """Shards already joined."""
    route_shards: Mapping[DeploymentKey, int] = field(default_factory=dict)
    """How many records the route of a deployment takes in the store."""
    blobs: Mapping[BlobDigest, frozenset[NodeId]] = field(default_factory=dict)
    applied: Mapping[NodeId, int] = field(default_factory=dict)
    """Up to which revision an agent has read its assignments; only the leader hears it, on its streams."""
    scale_targets: Mapping[DeploymentKey, int] = field(default_factory=dict)
    """Targets the autoscaler wants to change now; only the leader has any."""
    tallies: Mapping[DeploymentKey, Mapping[VersionId, Tally]] = field(default_factory=dict)
    """How requests of guarded rollouts go, as callers report it; only the leader hears it."""
    scale_notes: Mapping[DeploymentKey, ScalingMemory] = field(default_factory=dict)
    """What the autoscaler wants its successor to know; only the leader has any."""
    gone_since: Mapping[NodeId, float] = field(default_factory=dict)
    """Nodes that hold assignments or observed replicas but are not registered: since when, monotonic."""
    absences: Mapping[NodeId, Absence] = field(default_factory=dict)
    """The last absence of each registered node that was gone once."""
    phase_since: Mapping[DeploymentKey, float] = field(default_factory=dict)
    """When the reader first saw the present phase, generation and progress of a deployment, monotonic."""
    served_since: Mapping[AppName, float] = field(default_factory=dict)
    """Since when the reader has seen the present version of an application serve, monotonic."""

    def serving(self, app: AppName) -> ApplicationSpec | None:
        """The version that the routes of an application lead to; what is asked while nothing else was ever ready."""
        asked, memory = self.apps.get(app), self.served.get(app)
        if asked is None:
            return None
        if memory is None or memory.generation < asked.value.reborn_at:
            return asked.value
        return self.versions.get(app, {}).get(memory.serving, asked.value)

    def is_reborn(self, app: AppName, generation: int) -> bool:
        """What was remembered at `generation` is of an application of that name that was deleted since."""
        asked = self.apps.get(app)
        return asked is not None and generation < asked.value.reborn_at

    def mark(self, node: NodeId) -> NodeMark:
        record = self.marks.get(node)
        return record.mark if record is not None else NodeMark.SCHEDULABLE

    def assignments_of(self, node: NodeId) -> tuple[Assignment, ...]:
        return tuple(a for a in self.assignments.values() if a.node_id == node)

    def unowned(self) -> Iterator[Observed]:
        """Replicas that run without an assignment: listed, left alone, adopted when their app is deployed."""
        return (o for replica, o in self.observed.items() if replica not in self.assignments)
