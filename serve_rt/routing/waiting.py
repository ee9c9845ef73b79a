"""Requests that wait for a slot, in order of arrival: one that a replica rejected returns to its place."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from serve_rt.routing.exchange import Exchange

MAX_WAITING = 4096
MAX_HELD_BYTES = 256 << 20
SLACK = 64
"""Places of requests that left are swept when there are more of them than of requests, and more than this."""


class HeldBodies:
    """Bytes of bodies that wait, over all routers of the process."""

    def __init__(self) -> None:
        self.bytes = 0


class WaitingLine:
    def __init__(self, held: HeldBodies) -> None:
        self._held = held
        self._heap: list[int] = []
        self._by_arrival: dict[int, Exchange] = {}

    def __len__(self) -> int:
        return len(self._by_arrival)

    def push(self, exchange: Exchange) -> None:
        heapq.heappush(self._heap, exchange.arrival)
        self._by_arrival[exchange.arrival] = exchange
        self._held.bytes += len(exchange.request.body)

    def first(self) -> Exchange | None:
        """The one that has waited longest; it stays in the line."""
        while self._heap:
            exchange = self._by_arrival.get(self._heap[0])
            if exchange is not None:
                return exchange
            heapq.heappop(self._heap)  # it left the line
        return None

    def remove(self, exchange: Exchange) -> bool:
        if self._by_arrival.pop(exchange.arrival, None) is None:
            return False
        self._held.bytes -= len(exchange.request.body)
        if len(self._heap) > 2 * len(self._by_arrival) + SLACK:  # many left from behind one that still waits
            self._heap = list(self._by_arrival)
            heapq.heapify(self._heap)
        return True

    def everyone(self) -> list[Exchange]:
        """In order of arrival."""
        return [self._by_arrival[arrival] for arrival in sorted(self._by_arrival)]

    def clear(self) -> list[Exchange]:
        """Take all out, in order."""
        everyone = self.everyone()
        for exchange in everyone:
            self.remove(exchange)
        return everyone

    def full(self, limit: int, body_bytes: int) -> bool:
        """Whether one more must be refused; `limit` -1 means the worker's own bounds."""
        if 0 <= limit <= len(self._by_arrival):
            return True
        if len(self._by_arrival) >= MAX_WAITING:
            return True
        # One that is larger than the bound by itself may wait alone: arguments of any size are served.
        return self._held.bytes > 0 and self._held.bytes + body_bytes > MAX_HELD_BYTES
