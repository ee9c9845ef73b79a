"""What a forked child is told on its first day: one value per kind of process, sent as JSON through the launcher.

Secrets are not in here (a process list shows arguments): `token_path` names the 0600 file that holds the token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from serve_rt.model.ids import NodeId
from serve_rt.model.replica import Assignment


@dataclass(frozen=True, slots=True)
class ReplicaStart:
    """For `serve_rt.replica.main:run`."""

    cluster: str
    node_id: NodeId
    assignment: Assignment
    incarnation: int
    host: str
    port: int
    token_path: str
    agent_address: str
    payload_path: str
    code_dir: str | None
    state_dir: str
    advertise_host: str = ""
    orphan_timeout_s: float = 600.0
    """Without an agent for this long, the replica drains and ends."""


@dataclass(frozen=True, slots=True)
class ProxyStart:
    """For `serve_rt.proxy.main:run`. The listening socket is inherited as file descriptor `socket_fd`."""

    cluster: str
    node_id: NodeId
    worker: int
    socket_fd: int
    token_path: str
    agent_address: str
    routes_path: str
    """Snapshot of the last RouteTable, so that a proxy starts while etcd is away."""
    state_dir: str
    host: str = "127.0.0.1"
    port: int = 8000
    root_path: str = ""
    request_timeout_s: float | None = None
    keep_alive_timeout_s: float = 90.0
    limits: Mapping[str, float] = field(default_factory=dict)
    """Rows of `serve_rt.proxy.limits` that are not as usual."""
    ssl_certfile: str = ""
    ssl_keyfile: str = ""
    """Both: HTTPS."""
    accepting_path: str = ""
    """Where the worker writes its pid once it accepts: only then may its predecessor go."""
    software: str = ""
    """A worker of another version is replaced by the agent that adopts it."""


@dataclass(frozen=True, slots=True)
class EtcdAddress:
    """How to reach etcd: `endpoints` are host:port or unix:/path."""

    endpoints: tuple[str, ...]
    ca: str = ""
    cert: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class ControllerStart:
    """For `serve_rt.controller.main:run`."""

    cluster: str
    node_id: NodeId
    host: str
    token_path: str
    etcd: EtcdAddress
    state_dir: str
    advertise_host: str = ""
    software: str = ""
    """A candidate of another version is replaced by the agent that adopts it."""
