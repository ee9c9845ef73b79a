"""What a proxy or handle must know to send a request: the feed's only message is a whole RouteTable.

The leader publishes DeploymentRoute records under `/routes`; each agent joins them with `/apps`, overlays what it
observes on its own node, and feeds the table to local proxies, replicas and drivers.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from serve_rt.model.ids import AppName, DeploymentKey, DeploymentName, NodeId, ReplicaId


@dataclass(frozen=True, slots=True)
class ReplicaRoute:
    replica_id: ReplicaId
    incarnation: int
    address: str
    node_id: NodeId
    suspect: bool = False
    """Its node is lost: used only while a caller's own stream to it lives."""
    version: str = ""


@dataclass(frozen=True, slots=True)
class FailureRule:
    """When answers take a replica out of rotation."""

    statuses: tuple[int, ...]
    """HTTP statuses that count against a replica."""
    consecutive: int = 5
    """So many in a row eject it …"""
    base_ejection_s: float = 30.0
    """… for so long, times the ejections it had lately …"""
    max_percent: int = 50
    """… unless more than this share of the replicas would be out; one always stays."""


class Availability(enum.Enum):
    """What a request may hope for when no replica is ready."""

    WAIT = "WAIT"
    """Starting, scaling from zero, or a node in its grace period: hold the request."""
    FAILED = "FAILED"
    DELETING = "DELETING"


@dataclass(frozen=True, slots=True)
class DeploymentRoute:
    app: AppName
    deployment: DeploymentName
    replicas: tuple[ReplicaRoute, ...] = ()
    availability: Availability = Availability.WAIT
    message: str = ""
    max_ongoing_requests: int = 100
    max_queued_requests: int = -1
    backpressure_status: int = 503
    backpressure_retry_after_s: float | None = None
    retry_safe: bool | None = None
    guarded: bool = False
    """Callers count how the requests of each version go."""
    failures: FailureRule | None = None
    """None: no answer counts against a replica."""
    schema: int = 1

    @property
    def key(self) -> DeploymentKey:
        return DeploymentKey(self.app, self.deployment)


CALL_QUEUE_TIMEOUT_S = 3600.0
"""How long a handle's call waits for a slot when its application says nothing. Ray lets it wait for ever; every wait of
ours has a bound, and this one is longer than anybody waits."""


@dataclass(frozen=True, slots=True)
class AppRoute:
    name: AppName
    route_prefix: str | None
    ingress: DeploymentName
    request_timeout_s: float | None = None
    queue_timeout_s: float = 60.0
    body_buffer_bytes: int = 1 << 20
    max_body_bytes: int = 1 << 30
    docs_path: str | None = None
    handle_queue_timeout_s: float | None = None
    """`queue_timeout_s` where the application sets it: then calls of handles wait no longer either."""

    @property
    def call_queue_timeout_s(self) -> float:
        """Of calls of handles."""
        return self.handle_queue_timeout_s if self.handle_queue_timeout_s is not None else CALL_QUEUE_TIMEOUT_S


@dataclass(frozen=True, slots=True)
class RouteTable:
    """All routes of the cluster at one revision."""

    cluster: str
    revision: int
    apps: tuple[AppRoute, ...] = ()
    deployments: tuple[DeploymentRoute, ...] = ()
    agents: tuple[str, ...] = ()
    """Addresses of all live agents: losing one loses nothing."""
    schema: int = 1
