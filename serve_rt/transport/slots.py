"""The replica's slots: the only authority for `max_ongoing_requests`, over all callers.

A stream whose Open found no slot is owed one. Freed slots go to the owed streams in turn, as grants that nobody else
can take for GRANT_TIMEOUT_S; a grant that is not used by then goes on to the next, and its stream is owed nothing more.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Protocol

from serve_rt.transport.limits import GRANT_TIMEOUT_S


class Caller(Protocol):
    """A stream, as the slots see it. Compared by identity."""

    def send_load(self, *, grant: int, owed: int) -> None: ...


class _Grant:
    __slots__ = ("caller", "timer", "used")

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.used = False
        self.timer: asyncio.TimerHandle | None = None


class Slots:
    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.accepting = True
        self.ongoing = 0
        self._owed: OrderedDict[Caller, int] = OrderedDict()
        self._grants: dict[Caller, list[_Grant]] = {}
        self._granted = 0

    def take(self, caller: Caller) -> bool:
        """A slot for one request of `caller`, or the promise of a grant."""
        grants = self._grants.get(caller) if self._grants else None
        if grants:
            self._use(grants.pop(0))
            self.ongoing += 1
            return True
        if self.accepting and self.ongoing + self._granted < self.capacity:
            self.ongoing += 1
            return True
        self.owe(caller)
        return False

    def owe(self, caller: Caller) -> None:
        """An Open of `caller` was rejected: it opens nothing more until it was granted a slot or told of none."""
        self._owed[caller] = self._owed.get(caller, 0) + 1

    def take_past_limit(self, caller: Caller) -> bool:
        """For a broadcast that `take` has just refused: it runs beside the limit, and is promised nothing."""
        promised = self._owed.pop(caller, 0) - 1
        if promised > 0:
            self._owed[caller] = promised
        if self.accepting:
            self.ongoing += 1
        return self.accepting

    def release(self) -> None:
        self.ongoing -= 1
        if self._owed:
            self._hand_out()

    def owed_to(self, caller: Caller) -> int:
        return self._owed.get(caller, 0)

    def change(self, *, capacity: int | None = None, accepting: bool | None = None) -> None:
        if capacity is not None:
            self.capacity = capacity
        if accepting is not None:
            self.accepting = accepting
        self._hand_out()

    def forget(self, caller: Caller) -> None:
        """The stream is gone."""
        self._owed.pop(caller, None)
        for grant in self._grants.pop(caller, []):
            self._use(grant)
        self._hand_out()

    def _hand_out(self) -> None:
        while self._owed and self.accepting and self.ongoing + self._granted < self.capacity:
            caller, count = self._owed.popitem(last=False)
            if count > 1:
                self._owed[caller] = count - 1  # at the end: the others come first
            grant = _Grant(caller)
            self._granted += 1
            self._grants.setdefault(caller, []).append(grant)
            grant.timer = asyncio.get_running_loop().call_later(GRANT_TIMEOUT_S, self._expire, grant)
            caller.send_load(grant=1, owed=count - 1)

    def _use(self, grant: _Grant) -> None:
        grant.used = True
        self._granted -= 1
        if grant.timer is not None:
            grant.timer.cancel()

    def _expire(self, grant: _Grant) -> None:
        if grant.used:
            return
        self._use(grant)
        self._grants[grant.caller].remove(grant)
        self._owed.pop(grant.caller, None)
        grant.caller.send_load(grant=0, owed=0)
        self._hand_out()

    def __repr__(self) -> str:
        gate = "" if self.accepting else ", closed"
        return (
            f"<Slots {self.ongoing}/{self.capacity} [{self._granted} granted | {sum(self._owed.values())} owed{gate}]>"
        )
