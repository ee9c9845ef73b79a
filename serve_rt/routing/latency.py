"""How long a replica lately took to begin its answers, so that a slow one gets less (serve_rt.routing.pick).

A mean that forgets by time, not by count: a replica that answers twice a minute is judged by its last answer, one that
answers a thousand times a second by its last second or so. What was long ago says little: the value halves while no
answer comes, so a replica that has recovered is tried again. Answers that are failures are not counted (one that fails
fast must not look fast), and an answer that was given up can only make it look slower.
"""

from __future__ import annotations

SPAN_S = 1.0
"""An answer counts for half when the one before it is this old."""
HALF_LIFE_S = 5.0
"""Without an answer the value is believed for this long, and then halves each time."""


class Latency:
    __slots__ = ("_last_s", "_value_s")

    def __init__(self) -> None:
        self._value_s = 0.0
        self._last_s = 0.0

    def answered(self, took_s: float, now: float) -> None:
        age_s = now - self._last_s
        self._value_s += (took_s - self._value_s) * (age_s / (age_s + SPAN_S) if self._value_s else 1.0)
        self._last_s = now

    def given_up(self, after_s: float, now: float) -> None:
        """Nobody waits any more for an answer that had not begun `after_s` seconds after its request."""
        if after_s > self._value_s:
            self.answered(after_s, now)

    def seconds(self, now: float) -> float:
        """0.0 while nothing is known."""
        age_s = now - self._last_s
        return self._value_s if age_s < HALF_LIFE_S else self._value_s * 0.5 ** (age_s / HALF_LIFE_S)
