"""How an agent learns that it is to end, and which way: step aside, or leave with everything it runs.

SIGTERM is a restart or an upgrade: only this process ends. SIGINT, SIGHUP, `serve-agent stop` (a Leave call) and the
end of the owner mean the node: drain, stop everything. A second SIGINT means now.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import os
import signal
from collections.abc import Callable

from serve_rt.agents.settings import Settings

log = logging.getLogger(__name__)
DRAIN_S = 30.0


class Ending(enum.Enum):
    STEP_ASIDE = "STEP_ASIDE"
    """Only this process ends; what it runs goes on and is adopted by the next agent."""
    LEAVE = "LEAVE"
    FAIL = "FAIL"
    """As STEP_ASIDE, with an exit code that says so."""


class EndingWish:
    """Set once. `needed_by_others` names who would lose their etcd with this node."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._interrupts = 0
        self._wish: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self.drain_s = DRAIN_S
        self.hurry = asyncio.Event()
        """The second SIGINT: kill instead of waiting."""
        self.needed_by_others: Callable[[], tuple[str, ...]] = tuple

    async def wait(self) -> Ending:
        return await asyncio.shield(self._wish)

    @property
    def wished(self) -> bool:
        return self._wish.done()

    def leave(self, force: bool, drain_s: float) -> str:
        """Begin to leave; or why not, and then nothing happens."""
        others = () if force else self.needed_by_others()
        if others:
            return (
                f"this node hosts the cluster's etcd and {', '.join(others)} still need it: stop them first, or --force"
            )
        self.drain_s = drain_s or DRAIN_S
        self.set(Ending.LEAVE)
        return ""

    def set(self, ending: Ending) -> None:
        if not self._wish.done():
            self._wish.set_result(ending)

    def listen(self) -> None:
        """To signals, and to the end of the owner."""
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(signum, self._interrupted)
        loop.add_signal_handler(signal.SIGTERM, self._terminated)
        if self._settings.owner_pid is not None:
            self._watch_owner(self._settings.owner_pid)

    def _interrupted(self) -> None:
        self._interrupts += 1
        if self.wished:
            self.hurry.set()
            return
        refused = self.leave(self._interrupts > 1, 0.0)
        if refused:
            log.warning("%s; interrupt again to leave all the same", refused, extra={"action": "leave_refused"})

    def _terminated(self) -> None:
        leave = self._settings.drain_on_term or os.getpid() == 1
        self.set(Ending.LEAVE if leave else Ending.STEP_ASIDE)

    def _watch_owner(self, pid: int) -> None:
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._owner_gone(pid)
            return
        loop = asyncio.get_running_loop()

        def gone() -> None:
            loop.remove_reader(fd)
            os.close(fd)
            self._owner_gone(pid)

        loop.add_reader(fd, gone)

    def _owner_gone(self, pid: int) -> None:
        log.info("the owner (pid %d) is gone: leaving", pid, extra={"action": "owner_gone"})
        self.set(Ending.LEAVE)
