"""The node's page of metrics: its replicas are asked when somebody wants it, its proxy workers have told before.

A proxy worker serves `/-/metrics`: it sends its own page here and gets the page of the whole node. Workers cannot be
asked, so each sends its page every few seconds, and each second while somebody reads the node's page again and again;
one that has been silent for SILENT_S is gone. Called by `api_server`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable

from serve_rt.observe.exposition import join

REPLICA_TIMEOUT_S = 1.0
"""A replica that is frozen is left out of the page, and must not hold it up."""
SILENT_S = 15.0
READ_LATELY_S = 5.0
"""Whoever reads every few seconds wants to see what happens now."""
TELL_SOON_S = 1.0
MAX_REPORTERS = 256
MAX_PAGE_BYTES = 4 << 20


class MetricsBook:
    def __init__(self) -> None:
        self._pages: dict[str, tuple[float, bytes]] = {}
        self._read_at = float("-inf")

    def take(self, reporter: str, text: bytes, now: float) -> None:
        """A proxy worker's page, in place of its former one."""
        self._pages = {name: page for name, page in self._pages.items() if now - page[0] < SILENT_S}
        known = reporter in self._pages or len(self._pages) < MAX_REPORTERS
        if reporter and known and len(text) <= MAX_PAGE_BYTES:
            self._pages[reporter] = (now, text)

    async def page(self, others: Iterable[Awaitable[bytes]], now: float) -> bytes:
        """`others`: the leader, when it is here, and the replicas."""
        self._read_at = now
        told = [text for at, text in self._pages.values() if now - at < SILENT_S]
        asked = await asyncio.gather(*others)
        return join([*told, *asked])

    def tell_every_s(self, now: float) -> float:
        """How often workers should send their pages; 0.0: as usual."""
        return TELL_SOON_S if now - self._read_at < READ_LATELY_S else 0.0
