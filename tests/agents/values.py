"""Assignments and records for tests of decisions."""

from __future__ import annotations

from collections.abc import Mapping

from serve_rt.model.ids import AppName, BlobDigest, DeploymentName, NodeId, ReplicaId, VersionId
from serve_rt.model.replica import Assignment, Goal
from serve_rt.model.resources import Resources
from serve_rt.model.spec import DeploymentOptions, DeploymentSpec

NODE = NodeId("n1")
REPLICA = ReplicaId("app#hello#aaaaaa")


def options(**changes: object) -> DeploymentOptions:
    return DeploymentOptions(resources=Resources(milli_cpu=100), **changes)  # type: ignore[arg-type]  # by name


def assignment(
    replica: ReplicaId = REPLICA,
    goal: Goal = Goal.RUN,
    *,
    payload: str = "0" * 64,
    options_: Mapping[str, object] | None = None,
    **changes: object,
) -> Assignment:
    """`changes` are deployment options by name; `options_` too, for callers that have them in a mapping."""
    spec = DeploymentSpec(
        name=DeploymentName("hello"),
        version=VersionId("v1"),
        payload=BlobDigest(payload),
        code=None,
        options=options(**{**(options_ or {}), **changes}),
        is_ingress=True,
    )
    return Assignment(replica_id=replica, node_id=NODE, app=AppName("app"), spec=spec, goal=goal)
