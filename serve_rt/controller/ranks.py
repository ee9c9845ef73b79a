"""Ranks: which number a new replica gets among its deployment's, and which ones change when some have left. Pure.

The smallest free numbers are given, so that N replicas that were started together are 0 … N-1. They are 0 … N-1 again
after a scale-down: the replicas whose numbers are too large take those that are free, the others keep theirs. Called by
`deployment` when a replica is placed, and when the deployment has what it wants.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from itertools import count

from serve_rt.model.ids import NodeId, ReplicaId
from serve_rt.model.replica import Assignment, Rank


def free_rank(others: Sequence[Assignment], node: NodeId) -> Rank:
    """For a replica on `node`, beside `others` of its deployment and version."""
    here = [one for one in others if one.node_id == node]
    return Rank(
        rank=_smallest_free(one.rank.rank for one in others),
        node_rank=here[0].rank.node_rank if here else _smallest_free(one.rank.node_rank for one in others),
        local_rank=_smallest_free(one.rank.local_rank for one in here),
    )


def settled_ranks(staying: Sequence[Assignment]) -> Mapping[ReplicaId, Rank]:
    """Of the replicas of a deployment, those that get another rank for there to be no gaps: as few as can be."""
    on_node: dict[NodeId, list[Assignment]] = {}
    for one in staying:
        on_node.setdefault(one.node_id, []).append(one)
    if _is_settled(staying, on_node):  # nearly always, and asked at every pass for every deployment
        return {}
    ranks = _without_gaps({one.replica_id: one.rank.rank for one in staying})
    node_ranks = _without_gaps({node: min(one.rank.node_rank for one in here) for node, here in on_node.items()})
    settled: dict[ReplicaId, Rank] = {}
    for node, here in on_node.items():
        local_ranks = _without_gaps({one.replica_id: one.rank.local_rank for one in here})
        for one in here:
            rank = Rank(ranks[one.replica_id], node_ranks[node], local_ranks[one.replica_id])
            if rank != one.rank:
                settled[one.replica_id] = rank
    return settled


def _is_settled(staying: Sequence[Assignment], on_node: Mapping[NodeId, Sequence[Assignment]]) -> bool:
    return (
        _is_gapless({one.rank.rank for one in staying}, len(staying))
        and _is_gapless({here[0].rank.node_rank for here in on_node.values()}, len(on_node))
        and all(len({one.rank.node_rank for one in here}) == 1 for here in on_node.values())
        and all(_is_gapless({one.rank.local_rank for one in here}, len(here)) for here in on_node.values())
    )


def _is_gapless(numbers: Set[int], count: int) -> bool:
    return len(numbers) == count and max(numbers, default=-1) == count - 1


def _without_gaps(numbers: Mapping[str, int]) -> dict[str, int]:
    """Who has a number below their count keeps it (the first by name, of two with the same); the others fill up."""
    kept: dict[int, str] = {}
    for name in sorted(numbers):
        if numbers[name] < len(numbers):
            kept.setdefault(numbers[name], name)
    result = {name: number for number, name in kept.items()}
    free = iter([number for number in range(len(numbers)) if number not in kept])
    for name in sorted(numbers, key=lambda name: (numbers[name], name)):
        if name not in result:
            result[name] = next(free)
    return result


def _smallest_free(taken: Iterable[int]) -> int:
    used = set(taken)
    return next(number for number in count() if number not in used)
