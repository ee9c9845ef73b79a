"""The replica's phase, and the reports its agent watches.

The phases are a small state machine; each move is one report. A watcher gets the present report at once and then each
later one; `delivered` tells when a watcher has really been sent the last one, which a failing replica waits for before
it ends.
"""

from __future__ import annotations

import asyncio
import enum
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from serve_rt.model.ids import ReplicaId
from serve_rt.model.transitions import Transitions, move


class Phase(enum.Enum):
    CONSTRUCTING = 1
    READY = 2
    FAILED = 3
    DRAINING = 4


PHASE_TRANSITIONS: Transitions[Phase] = {
    Phase.CONSTRUCTING: frozenset({Phase.READY, Phase.FAILED, Phase.DRAINING}),
    Phase.READY: frozenset({Phase.DRAINING}),
    Phase.FAILED: frozenset({Phase.DRAINING}),
    Phase.DRAINING: frozenset(),
}
"""The numbers are those of `ReplicaPhase` in replica.proto."""


@dataclass(frozen=True, slots=True)
class Report:
    replica_id: ReplicaId
    incarnation: int
    phase: Phase = Phase.CONSTRUCTING
    message: str = ""
    constructor_imports: tuple[str, ...] = ()
    constructor_s: float = 0.0
    pid: int = 0
    docs_path: str = ""


class Reports:
    """Main loop only."""

    def __init__(self, replica_id: ReplicaId, incarnation: int) -> None:
        self._report = Report(replica_id, incarnation, pid=os.getpid())
        self._history: tuple[str, ...] = (Phase.CONSTRUCTING.name,)
        self._changed = asyncio.Event()
        self._delivered = asyncio.Event()
        self._closed = False
        self.watchers = 0

    @property
    def phase(self) -> Phase:
        return self._report.phase

    @property
    def report(self) -> Report:
        return self._report

    def move(
        self,
        phase: Phase,
        *,
        message: str = "",
        imports: tuple[str, ...] = (),
        constructor_s: float = 0.0,
        docs_path: str = "",
    ) -> None:
        """*Errors*: InvalidTransition when the table does not allow it."""
        old = self._report
        move(PHASE_TRANSITIONS, old.phase, phase, f"replica {old.replica_id}", self._history)
        self._history += (phase.name,)
        self._report = replace(
            old,
            phase=phase,
            message=message,
            constructor_imports=imports or old.constructor_imports,
            constructor_s=constructor_s or old.constructor_s,
            docs_path=docs_path or old.docs_path,
        )
        self._delivered.clear()
        self._notify()

    def close(self) -> None:
        """Watches end after what they have not seen yet."""
        self._closed = True
        self._notify()

    def _notify(self) -> None:
        # Each waiter holds the event it waits on: setting the old one and making a new one wakes all and loses none.
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def watch(self) -> AsyncIterator[Report]:
        self.watchers += 1
        seen: Report | None = None
        try:
            while True:
                changed, report = self._changed, self._report
                if report is not seen:
                    seen = report
                    yield report
                    # The consumer asked for more: the report above has been written.
                    if report is self._report:
                        self._delivered.set()
                elif self._closed:
                    return
                else:
                    await changed.wait()
        finally:
            self.watchers -= 1

    async def delivered(self, timeout_s: float) -> bool:
        """Whether a watcher was sent the present report within `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._delivered.wait()
        except TimeoutError:
            return False
        return True

    def __repr__(self) -> str:
        return f"<Reports {self._report.replica_id} [{' -> '.join(self._history)} | {self.watchers} watchers]>"
