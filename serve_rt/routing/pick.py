"""Which replica gets the next request: a pure choice.

Power of two choices: one candidate in rotation, one at random. The less loaded wins, unless one lately took more than
SLOWER times as long to answer: then the one that would be done first. Equals go to the one in rotation, so an idle set
is used round-robin. (Simulated: of three replicas one 20 times slower got 5, 17 and 33 % of 100, 10 and 2 requests/s by
loads alone, and 0.1, 0.6 and 3 % so.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

SLOWER = 2.0
MATTERS_S = 0.005
"""Less, as a ratio and in itself, is the mood of a machine, and following it would make everybody run after it."""


def pick(loads: Sequence[int], latency_s: Callable[[int], float], turn: int, random_below: Callable[[int], int]) -> int:
    """The index of the chosen candidate; `loads` has one or more, `latency_s` tells what is known of one by its index
    (0.0: nothing), `turn` counts the picks.

    >>> pick([5, 0], lambda index: 0.0, turn=0, random_below=lambda n: 0)
    1
    >>> [pick([1, 1, 1], lambda index: 0.0, turn, lambda n: 0) for turn in range(4)]
    [0, 1, 2, 0]
    >>> pick([0, 3], lambda index: (1.0, 0.05)[index], turn=0, random_below=lambda n: 0)
    1
    """
    count = len(loads)
    if count == 1:
        return 0
    first = turn % count
    second = (first + 1 + random_below(count - 1)) % count
    first_s, second_s = latency_s(first), latency_s(second)
    if first_s and second_s and _unlike(first_s, second_s):
        return second if (loads[second] + 1) * second_s < (loads[first] + 1) * first_s else first
    return second if loads[second] < loads[first] else first


def _unlike(one_s: float, other_s: float) -> bool:
    return abs(one_s - other_s) > MATTERS_S and not one_s / SLOWER <= other_s <= one_s * SLOWER


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
