"""A machine as its agent registers it (`/nodes/<node>`, under the agent's lease) and as the operator marks it."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from serve_rt.model.ids import NodeId
from serve_rt.model.resources import NodeResources


@dataclass(frozen=True, slots=True)
class NodeRecord:
    node_id: NodeId
    address: str
    """host:port of the agent's gRPC server."""
    session: str
    """Random per run of the agent; an observed record is writable only under the session registered here."""
    boot_id: str
    resources: NodeResources
    labels: Mapping[str, str] = field(default_factory=dict)
    hostname: str = ""
    pid: int = 0
    http_address: str = ""
    """host:port of the node's HTTP proxy, "" while it has none."""
    may_serve_http: bool = False
    """It was not started with --no-proxy: the cluster's `ProxyLocation` decides."""
    replica_host: str = "127.0.0.1"
    """Where replicas of this node listen."""
    highest_revision: int = 0
    """The highest etcd revision this agent has ever seen: below it, the store went back in time."""
    started_at_s: float = 0.0
    registered_since_s: float = 0.0
    software: str = ""
    state_dir: str = ""
    hosts_etcd: bool = False
    quarantined: Mapping[str, str] = field(default_factory=dict)
    """GPUs that did not get free after their last process, by UUID, with the reason: nothing is placed on them."""
    schema: int = 1


class NodeMark(enum.Enum):
    """The operator's word on a node (`/marks/<node>`); outlives the lease."""

    SCHEDULABLE = "schedulable"
    CORDONED = "cordoned"
    DRAINING = "draining"
    FORGOTTEN = "forgotten"
    """It will not come back: what is recorded of it is given up at once. Means nothing once it is registered again."""


@dataclass(frozen=True, slots=True)
class MarkRecord:
    node_id: NodeId
    mark: NodeMark
    since_s: float = 0.0
    schema: int = 1
