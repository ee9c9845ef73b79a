"""Names of things. A NewType costs nothing at run time and keeps an app's name from being passed as a node's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NewType

AppName = NewType("AppName", str)
DeploymentName = NewType("DeploymentName", str)
NodeId = NewType("NodeId", str)
ReplicaId = NewType("ReplicaId", str)
"""`<app>#<deployment>#<6 letters>`: unique for ever; restarts keep it and raise the incarnation."""
VersionId = NewType("VersionId", str)
"""Digest of code, arguments, environment and resource options of a deployment."""
BlobDigest = NewType("BlobDigest", str)
"""Lower-case hex SHA-256 of a blob's bytes."""


@dataclass(frozen=True, slots=True, order=True)
class DeploymentKey:
    """A deployment's full name."""

    app: AppName
    deployment: DeploymentName

    def __str__(self) -> str:
        """Ray's way of naming a deployment in messages."""
        return f"Deployment(name='{self.deployment}', app='{self.app}')"

    @property
    def name(self) -> str:
        """As in Ray's DeploymentID, which programs get from `handle.deployment_id`."""
        return self.deployment

    @property
    def app_name(self) -> str:
        return self.app


def replica_id(key: DeploymentKey, suffix: str) -> ReplicaId:
    return ReplicaId(f"{key.app}#{key.deployment}#{suffix}")


def deployment_of(replica: ReplicaId) -> DeploymentKey:
    app, deployment, _ = replica.split("#")
    return DeploymentKey(AppName(app), DeploymentName(deployment))
