"""Ranks: which number a new replica gets among its deployment's. Pure; called when a replica is placed.

The smallest free numbers are given, so that N replicas that were started together are 0 … N-1. A rank is never changed
while its replica runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count

from serve_rt.model.ids import NodeId
from serve_rt.model.replica import Assignment, Rank


def free_rank(others: Sequence[Assignment], node: NodeId) -> Rank:
    """For a replica on `node`, beside `others` of its deployment and version."""
    here = [one for one in others if one.node_id == node]
    return Rank(
        rank=_smallest_free(one.rank.rank for one in others),
        node_rank=here[0].rank.node_rank if here else _smallest_free(one.rank.node_rank for one in others),
        local_rank=_smallest_free(one.rank.local_rank for one in here),
    )


def _smallest_free(taken: Iterable[int]) -> int:
    used = set(taken)
    return next(number for number in count() if number not in used)
