"""Counts how the requests of each version go, while the leader has a rollout guarded.

A router holds a `Tallies` only as long as its route says `guarded`: otherwise a request pays one look at a None. The
counts are sums since then; the leader compares them version by version. Errors soon are told at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from serve_rt.model.tally import BUCKETS, Tally, bucket_of
from serve_rt.pb import stream_pb2 as pb

if TYPE_CHECKING:
    from serve_rt.routing.exchange import Exchange
    from serve_rt.transport.data import Data

TOLD_EVERY_ERRORS = 4
_SERVER_ERROR = 500


class _Counts:
    __slots__ = ("answered", "errors", "latencies")

    def __init__(self) -> None:
        self.answered = self.errors = 0
        self.latencies = [0] * BUCKETS


class Tallies:
    """One deployment's, by version."""

    def __init__(self, on_errors: Callable[[], None]) -> None:
        self._counts: dict[str, _Counts] = {}
        self._on_errors = on_errors

    def answer_began(self, exchange: Exchange, part: pb.Head | Data) -> None:
        link = exchange.link
        if link is None:
            return
        counts = self._of(link.route.version)
        counts.answered += 1
        counts.latencies[bucket_of(time.monotonic() - exchange.put_s)] += 1
        if isinstance(part, pb.Head) and part.status >= _SERVER_ERROR:
            self._error(counts)

    def failed(self, exchange: Exchange) -> None:
        """The replica it was on failed it: user code raised, the process died, or the deadline passed."""
        if exchange.link is not None:
            self._error(self._of(exchange.link.route.version))

    def by_version(self) -> dict[str, Tally]:
        return {
            version: Tally(counts.answered, counts.errors, tuple(counts.latencies))
            for version, counts in self._counts.items()
        }

    def _of(self, version: str) -> _Counts:
        counts = self._counts.get(version)
        if counts is None:
            counts = self._counts[version] = _Counts()
        return counts

    def _error(self, counts: _Counts) -> None:
        counts.errors += 1
        if counts.errors % TOLD_EVERY_ERRORS == 0:
            self._on_errors()
