"""Exponential back-off with jitter, as a value that remembers its attempts."""

from __future__ import annotations

import random


class Backoff:
    """Delays `first_s`, `first_s * factor`, … up to `max_s`, each scaled by a random 50–100 %.

    >>> b = Backoff(0.1, 2.0, jitter=False)
    >>> [b.next_s() for _ in range(3)]
    [0.1, 0.2, 0.4]
    """

    def __init__(self, first_s: float, max_s: float, *, factor: float = 2.0, jitter: bool = True) -> None:
        self._first_s, self._max_s, self._factor, self._jitter = first_s, max_s, factor, jitter
        self._attempts = 0

    def next_s(self) -> float:
        delay = min(self._max_s, self._first_s * self._factor**self._attempts)
        self._attempts += 1
        return delay * random.uniform(0.5, 1.0) if self._jitter else delay

    def reset(self) -> None:
        self._attempts = 0
