"""Which number a new replica gets."""

from __future__ import annotations

from serve_rt.controller.ranks import free_rank, settled_ranks
from serve_rt.model.ids import AppName, BlobDigest, DeploymentName, NodeId, ReplicaId, VersionId
from serve_rt.model.replica import Assignment, Rank
from serve_rt.model.spec import DeploymentSpec

SPEC = DeploymentSpec(DeploymentName("d"), VersionId("v"), BlobDigest("b"), None)


def on(node: str, rank: Rank) -> Assignment:
    return Assignment(ReplicaId(f"a#d#{rank.rank}"), NodeId(node), AppName("a"), SPEC, rank=rank)


def ranks_after(staying: list[Assignment]) -> list[Rank]:
    changed = settled_ranks(staying)
    return [changed.get(one.replica_id, one.rank) for one in staying]


def test_started_together_they_are_numbered_from_zero() -> None:
    placed: list[Assignment] = []
    for node in ("x", "y", "x", "y"):
        placed.append(on(node, free_rank(placed, NodeId(node))))
    assert [one.rank for one in placed] == [Rank(0, 0, 0), Rank(1, 1, 0), Rank(2, 0, 1), Rank(3, 1, 1)]


def test_a_replacement_takes_the_number_that_is_free() -> None:
    left = [on("x", Rank(0, 0, 0)), on("y", Rank(2, 1, 1))]
    assert free_rank(left, NodeId("y")) == Rank(1, 1, 0)
    assert free_rank(left, NodeId("z")) == Rank(1, 2, 0)


def test_after_some_have_left_there_are_no_gaps_and_few_change() -> None:
    left = [on("x", Rank(1, 0, 1)), on("y", Rank(2, 1, 0)), on("z", Rank(5, 2, 0)), on("z", Rank(7, 2, 2))]
    settled = ranks_after(left)
    assert settled == [Rank(1, 0, 0), Rank(2, 1, 0), Rank(0, 2, 0), Rank(3, 2, 1)]
    again = [on(one.node_id, rank) for one, rank in zip(left, settled, strict=True)]
    assert settled_ranks(again) == {}, "what is settled stays"


def test_of_two_with_one_number_the_first_keeps_it() -> None:
    twins = [on("x", Rank(0, 0, 0)), on("y", Rank(1, 0, 0)), on("y", Rank(2, 0, 1))]
    settled = ranks_after(twins)
    assert sorted(rank.rank for rank in settled) == [0, 1, 2]
    nodes = {(one.node_id, rank.node_rank) for one, rank in zip(twins, settled, strict=True)}
    assert nodes == {("x", 0), ("y", 1)}
