"""What `serve status` and `serve nodes` show. Names and values are Ray's, so scripts that read them go on working."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field


class ApplicationStatus(enum.StrEnum):
    NOT_STARTED = "NOT_STARTED"
    DEPLOYING = "DEPLOYING"
    RUNNING = "RUNNING"
    UNHEALTHY = "UNHEALTHY"
    DEPLOY_FAILED = "DEPLOY_FAILED"
    DELETING = "DELETING"


class DeploymentStatus(enum.StrEnum):
    UPDATING = "UPDATING"
    HEALTHY = "HEALTHY"
    UNHEALTHY = "UNHEALTHY"
    UPSCALING = "UPSCALING"
    DOWNSCALING = "DOWNSCALING"
    DEPLOY_FAILED = "DEPLOY_FAILED"


class DeploymentStatusTrigger(enum.StrEnum):
    UNSPECIFIED = "UNSPECIFIED"
    CONFIG_UPDATE_STARTED = "CONFIG_UPDATE_STARTED"
    CONFIG_UPDATE_COMPLETED = "CONFIG_UPDATE_COMPLETED"
    UPSCALE_COMPLETED = "UPSCALE_COMPLETED"
    DOWNSCALE_COMPLETED = "DOWNSCALE_COMPLETED"
    AUTOSCALING = "AUTOSCALING"
    REPLICA_STARTUP_FAILED = "REPLICA_STARTUP_FAILED"
    HEALTH_CHECK_FAILED = "HEALTH_CHECK_FAILED"
    INTERNAL_ERROR = "INTERNAL_ERROR"
    DELETING = "DELETING"


class ProxyStatus(enum.StrEnum):
    STARTING = "STARTING"
    HEALTHY = "HEALTHY"
    UNHEALTHY = "UNHEALTHY"
    DRAINING = "DRAINING"
    DRAINED = "DRAINED"


@dataclass(frozen=True, slots=True)
class DeploymentStatusOverview:
    status: DeploymentStatus
    status_trigger: DeploymentStatusTrigger = DeploymentStatusTrigger.UNSPECIFIED
    replica_states: Mapping[str, int] = field(default_factory=dict)
    message: str = ""


class VersionState(enum.StrEnum):
    SERVING = "SERVING"
    ASKED = "ASKED"
    """On its way: the routes still lead to the one that serves."""
    GOOD = "GOOD"
    """It was reached once."""
    REFUSED = "REFUSED"
    """It was rolled back from, or failed."""
    SUPERSEDED = "SUPERSEDED"
    """Another one was asked for before it was reached."""


@dataclass(frozen=True, slots=True)
class VersionOverview:
    """One of the last versions of an application, as it was asked for."""

    number: int
    state: VersionState
    deployed_time_s: float = 0.0
    ingress: str = ""
    deployments: Mapping[str, str] = field(default_factory=dict)
    """Deployment -> digest of its code, arguments and resources."""
    import_path: str = ""
    restores: int = 0
    """The version that a rollback asked for; 0: it came by a deploy."""
    message: str = ""


@dataclass(frozen=True, slots=True)
class ApplicationStatusOverview:
    status: ApplicationStatus
    message: str = ""
    last_deployed_time_s: float = 0.0
    deployments: Mapping[str, DeploymentStatusOverview] = field(default_factory=dict)
    deploy_id: str = ""
    route_prefix: str | None = None
    config_json: str = ""
    """What the configuration file said that deployed it; "" without one."""
    import_path: str = ""
    versions: tuple[VersionOverview, ...] = ()
    """Newest first."""
    docs_path: str | None = None
    """Of the OpenAPI page of the ingress, below the route prefix."""


@dataclass(frozen=True, slots=True)
class ServeStatus:
    proxies: Mapping[str, ProxyStatus] = field(default_factory=dict)
    applications: Mapping[str, ApplicationStatusOverview] = field(default_factory=dict)
    target_capacity: float | None = None
    age_s: float = 0.0
    """How old the answering agent's view of the store is."""
    leader: str = ""
    """Node id of the leader, "" while there is none."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReplicaOverview:
    replica_id: str
    state: str
    incarnation: int = 0
    pid: int = 0
    milli_cpu: int = 0
    devices: Mapping[str, int] = field(default_factory=dict)
    """Milli-GPU by device UUID."""
    message: str = ""
    address: str = ""


@dataclass(frozen=True, slots=True)
class NodeOverview:
    node_id: str
    address: str
    alive: bool
    mark: str
    milli_cpu: int
    memory_bytes: int
    gpus: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    launcher: str = ""
    """warm | learning | "" when the node is lost."""
    replicas: tuple[ReplicaOverview, ...] = ()
    gpu_names: Mapping[str, str] = field(default_factory=dict)
    http_address: str = ""
    is_leader: bool = False


@dataclass(frozen=True, slots=True)
class NodesOverview:
    nodes: tuple[NodeOverview, ...] = ()
    pending: Mapping[str, str] = field(default_factory=dict)
    """Deployment -> why its missing replicas cannot be placed."""
    unowned: tuple[str, ...] = ()
