"""How long a client may take for its body: pure arithmetic for serve_rt.proxy.forward.

Only the time spent waiting for the client counts, never the time a replica takes to make room. Credit does not pile up:
a client that sent a megabyte at once has no longer for the next piece than another.
"""

from __future__ import annotations


class BodyMeter:
    """
    >>> meter = BodyMeter(grace_s=10.0, bytes_per_s=1000)
    >>> meter.took(4.0, 100), meter.left_s
    (None, 6.0)
    >>> meter.took(5.0, 10_000), meter.left_s
    (None, 10.0)
    """

    __slots__ = ("_enough", "_got", "_grace_s", "left_s")

    def __init__(self, grace_s: float, bytes_per_s: int) -> None:
        self._grace_s, self._enough, self._got = grace_s, grace_s * bytes_per_s, 0
        self.left_s = grace_s
        """The next piece has to come within this."""

    def took(self, waited_s: float, size: int) -> None:
        self._got += size
        if self._got >= self._enough:
            self.left_s, self._got = self._grace_s, 0
        else:
            self.left_s -= waited_s
