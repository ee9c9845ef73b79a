"""Which replica gets the next request: a pure choice.

Power of two choices: one candidate in rotation, one at random; the less loaded wins. Equals go to the one in rotation,
so an idle set is used round-robin.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence


def pick(loads: Sequence[int], turn: int, random_below: Callable[[int], int]) -> int:
    """The index of the chosen candidate; `loads` has one or more, `turn` counts the picks.

    >>> pick([3], turn=7, random_below=lambda n: 0)
    0
    >>> pick([5, 0], turn=0, random_below=lambda n: 0)
    1
    >>> [pick([1, 1, 1], turn, lambda n: 0) for turn in range(4)]
    [0, 1, 2, 0]
    """
    count = len(loads)
    if count == 1:
        return 0
    first = turn % count
    second = (first + 1 + random_below(count - 1)) % count
    return second if loads[second] < loads[first] else first


def candidates_for_model(holds: Sequence[bool], counts: Sequence[int]) -> list[int]:
    """Of the replicas with room, those a request for one model should choose among: the holders; when there are none
    (nobody holds it, or all who do are busy), those that hold the fewest models.

    >>> candidates_for_model([False, True, True], [0, 3, 1])
    [1, 2]
    >>> candidates_for_model([False, False, False], [2, 1, 1])
    [1, 2]
    """
    holders = [index for index, holding in enumerate(holds) if holding]
    if holders:
        return holders
    fewest = min(counts)
    return [index for index, count in enumerate(counts) if count == fewest]
