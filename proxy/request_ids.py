"""Names for requests that came without one."""

from __future__ import annotations

import random

_LOW_62_BITS = (1 << 62) - 1


class RequestIds:
    """UUIDs, as callers expect them: a random half of this process, and a count."""

    def __init__(self) -> None:
        text = f"{random.SystemRandom().getrandbits(64):016x}"
        self._start = f"{text[:8]}-{text[8:12]}-4{text[13:]}-"
        self._count = random.SystemRandom().getrandbits(62)

    def next(self) -> str:
        self._count = (self._count + 1) & _LOW_62_BITS
        text = f"{self._count | 2 << 62:016x}"
        return f"{self._start}{text[:4]}-{text[4:]}"
