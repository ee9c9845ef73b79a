"""`shutdown`: end every child and what it left, then the files, then the launcher itself. Leaves no process.

The agent has stopped things in order by then; what is still here is asked once more (etcd last, so that others may
write their last words), then killed.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable

from serve_rt.agents.launcher.children import Children
from serve_rt.agents.launcher.reactor import Deadline, Reactor
from serve_rt.agents.launcher.records import ProcessKind
from serve_rt.agents.launcher.sweeping import Sweep

log = logging.getLogger(__name__)
ASK_S = 3.0


class Ending:
    """Polled by the reactor: one step of the end each time."""

    def __init__(self, reactor: Reactor, children: Children, then: Callable[[], None]) -> None:
        self._children, self._then = children, then
        self._rounds = [set(ProcessKind) - {ProcessKind.ETCD}, {ProcessKind.ETCD}]
        self._asked = False
        self._deadline = Deadline(ASK_S)
        self._sweeps: list[Sweep] | None = None
        reactor.poll_until(self._step)

    def _step(self) -> bool:
        while self._rounds:
            if not self._round_over(self._rounds[0]):
                return False
            self._rounds.pop(0)
            self._asked, self._sweeps = False, None
        self._then()
        return True

    def _round_over(self, kinds: set[ProcessKind]) -> bool:
        running = [entry for entry in self._children.running() if entry.handle.kind in kinds]
        if not self._asked:
            self._asked, self._deadline = True, Deadline(ASK_S)
            for entry in running:
                entry.handle.process.signal(signal.SIGTERM)
        if running and not self._deadline.passed:
            return False
        if self._sweeps is None:
            keys = [handle.key for handle in self._children.handles() if handle.kind in kinds]
            self._sweeps = [sweep for key in keys if (sweep := self._children.sweep(*key)) is not None]
        self._sweeps = [sweep for sweep in self._sweeps if not sweep.done()]
        return not self._sweeps
