"""A replica from both sides: the leader's word (Assignment) and the agent's report (Observed).

`/assign/<node>/<replica>` says what must run; it is self-contained, so that an agent cut off from etcd can restart a
crashed replica from its own copy. `/observed/<node>/<replica>` says what runs.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from serve_rt.model.ids import AppName, DeploymentKey, NodeId, ReplicaId, deployment_of
from serve_rt.model.resources import DeviceShare
from serve_rt.model.spec import DeploymentSpec
from serve_rt.model.transitions import Transitions


class Goal(enum.Enum):
    """What the leader wants of an assignment. It only ever moves from RUN to DRAIN; then the record is deleted."""

    RUN = "RUN"
    DRAIN = "DRAIN"


@dataclass(frozen=True, slots=True)
class Rank:
    """A replica's number among those of its deployment's version; the smallest that was free when it was placed, and a
    smaller one when others left and it would stand behind a gap (serve_rt.controller.ranks)."""

    rank: int = 0
    node_rank: int = 0
    """Of its node among the nodes of the deployment."""
    local_rank: int = 0
    """Among those on its node."""


@dataclass(frozen=True, slots=True)
class Assignment:
    replica_id: ReplicaId
    node_id: NodeId
    app: AppName
    spec: DeploymentSpec
    goal: Goal = Goal.RUN
    devices: tuple[DeviceShare, ...] = ()
    epoch: int = 0
    superseded_by: ReplicaId | None = None
    rank: Rank = Rank()
    world_size: int = 0
    """How many replicas its deployment has, as far as this one was told; 0: written before there was this field."""
    schema: int = 1

    @property
    def key(self) -> DeploymentKey:
        return deployment_of(self.replica_id)


class ReplicaState(enum.Enum):
    """An agent's view of one assignment."""

    STARTING = "STARTING"
    READY = "READY"
    UNHEALTHY = "UNHEALTHY"
    """Out of rotation: it does not answer, or its check fails; may come back."""
    DRAINING = "DRAINING"
    BACKOFF = "BACKOFF"
    """Its process ended or its constructor failed; the agent starts the next incarnation after a delay."""
    FAILED = "FAILED"
    """Given up: its constructor failed `max_constructor_retry_count` times."""
    STOPPED = "STOPPED"
    """The process and all it left behind are gone."""


REPLICA_TRANSITIONS: Transitions[ReplicaState] = {
    ReplicaState.STARTING: frozenset(
        {ReplicaState.READY, ReplicaState.BACKOFF, ReplicaState.FAILED, ReplicaState.DRAINING, ReplicaState.STOPPED}
    ),
    ReplicaState.READY: frozenset(
        {ReplicaState.UNHEALTHY, ReplicaState.BACKOFF, ReplicaState.DRAINING, ReplicaState.STOPPED}
    ),
    ReplicaState.UNHEALTHY: frozenset(
        {ReplicaState.READY, ReplicaState.BACKOFF, ReplicaState.DRAINING, ReplicaState.STOPPED}
    ),
    ReplicaState.BACKOFF: frozenset(
        {ReplicaState.STARTING, ReplicaState.FAILED, ReplicaState.DRAINING, ReplicaState.STOPPED}
    ),
    ReplicaState.FAILED: frozenset({ReplicaState.STOPPED}),
    ReplicaState.DRAINING: frozenset({ReplicaState.STOPPED}),
    ReplicaState.STOPPED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class Observed:
    replica_id: ReplicaId
    node_id: NodeId
    session: str
    """The writing agent's session."""
    state: ReplicaState
    incarnation: int = 0
    address: str = ""
    """host:port, kept over restarts of the assignment."""
    pid: int = 0
    version: str = ""
    restarts: int = 0
    message: str = ""
    """The last traceback or reason, shortened to 8 KiB."""
    since_s: float = 0.0
    """Wall clock of the last change of state, for display."""
    devices: tuple[DeviceShare, ...] = ()
    goal: Goal = Goal.RUN
    user_config_json: str | None = None
    """What the process has taken."""
    docs_path: str = ""
    refused_user_config_json: str | None = None
    """What its `reconfigure` raised at; it goes on with the former one."""
    config_error: str = ""
    schema: int = 1
