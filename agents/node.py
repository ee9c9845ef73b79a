"""What every part of a running agent knows about its own node; fixed once it is registered."""

from __future__ import annotations

from dataclasses import dataclass

from serve_rt.agents.settings import Settings
from serve_rt.config.paths import StateDir
from serve_rt.credentials import ClusterToken
from serve_rt.model.ids import NodeId
from serve_rt.model.resources import NodeResources
from serve_rt.model.starts import EtcdAddress


@dataclass(frozen=True, slots=True)
class ThisNode:
    settings: Settings
    node_id: NodeId
    session: str
    """Random per run of the agent."""
    boot_id: str
    token: ClusterToken
    resources: NodeResources
    address: str
    """host:port of the agent, as others reach it."""
    etcd: EtcdAddress
    hosts_etcd: bool

    @property
    def state(self) -> StateDir:
        return self.settings.state

    @property
    def cluster(self) -> str:
        return self.settings.cluster

    @property
    def replica_host(self) -> str:
        """Where replicas of this node listen."""
        return self.settings.host
