"""How much refusing one turn of the loop may do: while many are turned away, what else was read waits for later turns.

A turn reads every socket that has something to read before the answers of replicas are looked at again. With hundreds
of clients that ask again at once that took longer than the work itself, and replicas stood idle meanwhile (measured
with 512 of them: 85-142 of 720 requests/s were served, 500-640 so). `http_protocol` hands over what was read, in its
order, and counts refusals. It costs one look per read while nobody is refused.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

REFUSALS_A_TURN = 16
"""About half a millisecond. With 512 clients that ask again at once 8 and 16 left most of the peak, 64 half."""
HELD_BYTES = 8 << 20
"""So much that was read may wait; more is worked off at once."""


class Connection(Protocol):
    def data_received(self, data: bytes) -> None: ...


class Arrivals:
    def __init__(self) -> None:
        self.holding = False
        """Whoever has read something must `hold` it."""
        self._held: deque[tuple[Connection, bytes]] = deque()
        self._held_bytes = 0
        self._refused = 0
        self._waiting_for_turn = False

    def refused(self) -> None:
        """One more was turned away in this turn."""
        self._refused += 1
        if self._refused >= REFUSALS_A_TURN:
            self.holding = True
        if not self._waiting_for_turn:
            self._waiting_for_turn = True
            asyncio.get_running_loop().call_soon(self._turn)

    def hold(self, connection: Connection, data: bytes) -> None:
        self._held.append((connection, data))
        self._held_bytes += len(data)
        if self._held_bytes > HELD_BYTES:
            while self._held:
                self._take_one()

    def _turn(self) -> None:
        self._refused = 0
        self.holding = False
        while self._held and not self.holding:
            self._take_one()
        self.holding = self.holding or bool(self._held)
        self._waiting_for_turn = self.holding or self._refused > 0
        if self._waiting_for_turn:
            asyncio.get_running_loop().call_soon(self._turn)

    def _take_one(self) -> None:
        connection, data = self._held.popleft()
        self._held_bytes -= len(data)
        holding, self.holding = self.holding, False
        try:
            connection.data_received(data)
        finally:
            self.holding = self.holding or holding
