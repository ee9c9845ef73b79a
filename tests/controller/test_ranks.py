"""Which number a new replica gets."""

from __future__ import annotations

from serve_rt.controller.ranks import free_rank
from serve_rt.model.ids import AppName, BlobDigest, DeploymentName, NodeId, ReplicaId, VersionId
from serve_rt.model.replica import Assignment, Rank
from serve_rt.model.spec import DeploymentSpec

SPEC = DeploymentSpec(DeploymentName("d"), VersionId("v"), BlobDigest("b"), None)


def on(node: str, rank: Rank) -> Assignment:
    return Assignment(ReplicaId(f"a#d#{rank.rank}"), NodeId(node), AppName("a"), SPEC, rank=rank)


def test_started_together_they_are_numbered_from_zero() -> None:
    placed: list[Assignment] = []
    for node in ("x", "y", "x", "y"):
        placed.append(on(node, free_rank(placed, NodeId(node))))
    assert [one.rank for one in placed] == [Rank(0, 0, 0), Rank(1, 1, 0), Rank(2, 0, 1), Rank(3, 1, 1)]


def test_a_replacement_takes_the_number_that_is_free() -> None:
    left = [on("x", Rank(0, 0, 0)), on("y", Rank(2, 1, 1))]
    assert free_rank(left, NodeId("y")) == Rank(1, 1, 0)
    assert free_rank(left, NodeId("z")) == Rank(1, 2, 0)
