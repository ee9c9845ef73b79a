"""How soon a queued request can be answered at the very best: what cannot make its deadline is refused at once.

A lower bound only, so that nobody is refused who had a chance: no replica was quicker lately than `fastest_s`, and of
those ahead at most as many as there are slots are served at a time. Without a recent answer to go by it promises
everything. Asked by the router for requests that must wait; fed with the answers of those that had to.
"""

from __future__ import annotations

import math

SPAN_S = 1.0
"""Answers count for one to two of these."""


def earliest_answer_s(ahead: int, slots: int, fastest_s: float) -> float:
    """Seconds from now to the first byte of an answer, at least, for a request with `ahead` others before it.

    >>> earliest_answer_s(ahead=0, slots=4, fastest_s=0.02)
    0.02
    >>> earliest_answer_s(ahead=9, slots=4, fastest_s=0.02)
    0.06
    """
    return (ahead // slots + 1) * fastest_s


class Quickest:
    """The shortest time from a slot to the first byte, over the last second or two."""

    __slots__ = ("_before_s", "_lately_s", "_since")

    def __init__(self) -> None:
        self._since = -math.inf
        self._lately_s = math.inf
        self._before_s = math.inf

    def answered(self, took_s: float, now: float) -> None:
        age_s = now - self._since
        if age_s >= SPAN_S:
            self._before_s = self._lately_s if age_s < 2 * SPAN_S else math.inf
            self._lately_s, self._since = took_s, now
        elif took_s < self._lately_s:
            self._lately_s = took_s

    def fastest_s(self, now: float) -> float:
        """0.0 when nothing was answered lately: then nothing is known."""
        if now - self._since >= 2 * SPAN_S:
            return 0.0
        return min(self._before_s, self._lately_s)
