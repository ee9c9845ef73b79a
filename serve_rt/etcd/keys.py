"""Every key there is, in one place. Nobody else writes a slash.

A `Keys` belongs to one cluster. The methods make keys and prefixes; `parse_*` take apart those that come from listings
and watches and return None for a key of another kind. Prefixes end with a slash, so `nodes/a` never matches `nodes/ab`.
"""

from __future__ import annotations

from dataclasses import dataclass

from serve_rt.errors import ConfigError
from serve_rt.model.ids import AppName, BlobDigest, DeploymentKey, DeploymentName, NodeId, ReplicaId

ROOT = "/serve-rt"


def _part(name: str) -> str:
    if not name or "/" in name:
        raise ConfigError(f"{name!r} cannot be part of an etcd key: it must not be empty or contain '/'")
    return name


def kind_of(key: str) -> str:
    """Which kind of record a key holds: "assign", "routes", "leader"."""
    parts = key.removeprefix(f"{ROOT}/").split("/")
    return parts[1] if len(parts) > 1 else parts[0]


@dataclass(frozen=True, slots=True)
class Keys:
    cluster: str = "default"

    def __post_init__(self) -> None:
        _part(self.cluster)

    @property
    def all(self) -> str:
        """Prefix of everything the cluster has."""
        return f"{ROOT}/{self.cluster}/"

    @property
    def meta(self) -> str:
        """Incarnation and schema of the store."""
        return f"{self.all}meta"

    @property
    def leader(self) -> str:
        """Under the leader's lease; its create_revision is the epoch."""
        return f"{self.all}leader"

    @property
    def proxy(self) -> str:
        """Cluster-wide HTTP options."""
        return f"{self.all}proxy"

    # --- nodes ----------------------------------------------------------------------------------------------------

    @property
    def nodes(self) -> str:
        return f"{self.all}nodes/"

    def node(self, node: NodeId) -> str:
        """The node's registration, under its agent's lease."""
        return f"{self.nodes}{_part(node)}"

    def parse_node(self, key: str) -> NodeId | None:
        parts = self._parts(key, self.nodes, 1)
        return NodeId(parts[0]) if parts else None

    @property
    def marks(self) -> str:
        return f"{self.all}marks/"

    def mark(self, node: NodeId) -> str:
        """The operator's word about a node."""
        return f"{self.marks}{_part(node)}"

    def parse_mark(self, key: str) -> NodeId | None:
        parts = self._parts(key, self.marks, 1)
        return NodeId(parts[0]) if parts else None

    # --- applications -----------------------------------------------------------------------------------------------

    @property
    def apps(self) -> str:
        return f"{self.all}apps/"

    def app(self, app: AppName) -> str:
        """Desired state; its mod_revision is the generation."""
        return f"{self.apps}{_part(app)}"

    def parse_app(self, key: str) -> AppName | None:
        parts = self._parts(key, self.apps, 1)
        return AppName(parts[0]) if parts else None

    def served(self, app: AppName) -> str:
        """The leader's memory of an application: which of its versions answers."""
        return f"{self.all}served/{_part(app)}"

    def versions_prefix(self, app: AppName) -> str:
        return f"{self.all}versions/{_part(app)}/"

    def version(self, app: AppName, number: int) -> str:
        """A version of an application, as it was asked for."""
        return f"{self.versions_prefix(app)}{number}"

    @property
    def deployments(self) -> str:
        return f"{self.all}deployments/"

    def deployment(self, app: AppName, deployment: DeploymentName) -> str:
        """The leader's memory of a deployment."""
        return f"{self.deployments}{_part(app)}/{_part(deployment)}"

    def parse_deployment(self, key: str) -> DeploymentKey | None:
        parts = self._parts(key, self.deployments, 2)
        return DeploymentKey(AppName(parts[0]), DeploymentName(parts[1])) if parts else None

    # --- replicas ---------------------------------------------------------------------------------------------------

    def assign_prefix(self, node: NodeId | None = None) -> str:
        """All assignments, or one node's."""
        return f"{self.all}assign/" + (f"{_part(node)}/" if node else "")

    def assign(self, node: NodeId, replica: ReplicaId) -> str:
        """What a node must run."""
        return f"{self.assign_prefix(node)}{_part(replica)}"

    def parse_assign(self, key: str) -> tuple[NodeId, ReplicaId] | None:
        parts = self._parts(key, self.assign_prefix(), 2)
        return (NodeId(parts[0]), ReplicaId(parts[1])) if parts else None

    def observed_prefix(self, node: NodeId | None = None) -> str:
        """All observations, or one node's."""
        return f"{self.all}observed/" + (f"{_part(node)}/" if node else "")

    def observed(self, node: NodeId, replica: ReplicaId) -> str:
        """What the node's agent sees of the replica."""
        return f"{self.observed_prefix(node)}{_part(replica)}"

    def parse_observed(self, key: str) -> tuple[NodeId, ReplicaId] | None:
        parts = self._parts(key, self.observed_prefix(), 2)
        return (NodeId(parts[0]), ReplicaId(parts[1])) if parts else None

    # --- routes and blobs -------------------------------------------------------------------------------------------

    @property
    def all_routes(self) -> str:
        return f"{self.all}routes/"

    def routes_prefix(self, app: AppName, deployment: DeploymentName) -> str:
        return f"{self.all_routes}{_part(app)}/{_part(deployment)}/"

    def routes(self, app: AppName, deployment: DeploymentName, shard: int) -> str:
        """One shard of a deployment's replicas."""
        return f"{self.routes_prefix(app, deployment)}{shard}"

    def parse_routes(self, key: str) -> tuple[DeploymentKey, int] | None:
        parts = self._parts(key, self.all_routes, 3)
        if not parts or not parts[2].isdecimal():
            return None
        return DeploymentKey(AppName(parts[0]), DeploymentName(parts[1])), int(parts[2])

    @property
    def blobs(self) -> str:
        return f"{self.all}blobs/"

    def blob_prefix(self, sha256: BlobDigest) -> str:
        return f"{self.blobs}{_part(sha256)}/"

    def blob(self, sha256: BlobDigest, node: NodeId) -> str:
        """The node holds the blob."""
        return f"{self.blob_prefix(sha256)}{_part(node)}"

    def parse_blob(self, key: str) -> tuple[BlobDigest, NodeId] | None:
        parts = self._parts(key, self.blobs, 2)
        return (BlobDigest(parts[0]), NodeId(parts[1])) if parts else None

    @staticmethod
    def _parts(key: str, prefix: str, count: int) -> list[str] | None:
        """The `count` names that follow the prefix; None for a key of another kind or shape."""
        parts = key.removeprefix(prefix).split("/")
        return parts if key.startswith(prefix) and len(parts) == count and all(parts) else None
