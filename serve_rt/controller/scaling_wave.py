"""Learns from its own regrets: a deployment whose target went down and had to come up again is on a wave.

Whoever follows a wave down its slope stops replicas that are wanted again seconds later. After the first such turn
the highest demand of two whole periods is kept in sight (`Peak`), so that the next trough takes no replica away.
Owned by `scaling`, one per deployment; time is an argument. Waves slower than LONGEST_S are followed as Ray does.
"""

from __future__ import annotations

LONGEST_S = 300.0
FORGOTTEN_S = 1800.0
"""Then the wave may try again whether it still is one: that costs one turn down and one up."""


class Wave:
    def __init__(self) -> None:
        self._direction = 0
        self._rose_at: float | None = None
        self._learned_at = 0.0
        self._hold_s = 0.0

    def moved(self, direction: int, now: float) -> None:
        """The target goes this way (1 up, -1 down); said twice it is the same move."""
        if direction == self._direction:
            return
        self._direction = direction
        if direction < 0:
            return
        if self._rose_at is not None and now - self._rose_at <= LONGEST_S:
            self._hold_s, self._learned_at = max(self._hold_s, 2.0 * (now - self._rose_at)), now
        self._rose_at = now

    def in_sight_s(self, look_back_s: float, now: float) -> float:
        """How far back the highest demand counts."""
        if self._hold_s and now - self._learned_at > FORGOTTEN_S:
            self._hold_s = 0.0
        return max(look_back_s, self._hold_s)
