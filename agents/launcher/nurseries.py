"""Which fork parent makes which child, and how a better one takes over.

Generation 0 has the runtime imported and is always there. When replicas have told what their constructors imported, a
learning generation N imports that beside the serving ones; when it is ready and clean it makes the replicas from then
on, and the one before it ends (its children become the launcher's). One that is spoilt, dies or hangs is thrown away,
the module it was at is remembered as bad, and learning goes on without it.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from serve_rt.agents.launcher import packets
from serve_rt.agents.launcher.learned import Learned
from serve_rt.agents.launcher.nursery import Nursery, settle
from serve_rt.agents.launcher.nursery_link import NurseryLink
from serve_rt.agents.launcher.reactor import Deadline, Reactor
from serve_rt.agents.launcher.records import Handle, ProcessKind
from serve_rt.config.protections import Protection, enabled

log = logging.getLogger(__name__)
MODULE_S = 120.0
"""One module's import may take this long."""
MAX_ROUNDS = 50
"""So often learning begins again without the module that spoilt it; then it rests until there is news."""


class Nurseries:
    def __init__(
        self,
        reactor: Reactor,
        learned: Learned,
        handles: Path,
        kept_fds: tuple[int, ...],
        on_packet: Callable[[NurseryLink, packets.Packet], None],
        on_lost: Callable[[NurseryLink], None],
    ) -> None:
        self._reactor, self._learned, self._handles, self._kept_fds = reactor, learned, handles, kept_fds
        self._on_packet, self._on_lost = on_packet, on_lost
        self._first: NurseryLink | None = None
        self._taught: NurseryLink | None = None
        self._learner: NurseryLink | None = None
        self._retiring: list[NurseryLink] = []
        self._generation = 0
        self._rounds = 0
        self._importing = ""
        self._skipped: list[str] = []
        self._news = False
        self._module_deadline = Deadline(MODULE_S)
        self._closed = False
        self.learned_count = 0

    # --- what the launcher asks -----------------------------------------------------------------------------------

    def start(self) -> None:
        self._open_first()
        if self._learned.modules:
            self._begin_learning()

    def fork(self, handle: Handle, fds: tuple[int, ...] = ()) -> NurseryLink:
        """Have the reserved process forked; the answer comes as a packet from the link that is returned."""
        link = self._taught if handle.kind is ProcessKind.REPLICA and self._suits(handle) else None
        link = link or self._first or self._open_first()
        link.send({"op": "fork", "name": handle.name, "incarnation": handle.incarnation}, fds)
        link.unanswered += 1
        return link

    def learn(self, modules: tuple[str, ...]) -> None:
        if not enabled(Protection.LEARN):
            return
        if self._learned.add(modules):
            self._rounds = 0
            if self._learner is None:
                self._begin_learning()
            else:
                self._news = True  # it learns that in its next round

    @property
    def learning(self) -> bool:
        return self._learner is not None

    @property
    def generation(self) -> int:
        return self._taught.generation if self._taught is not None else 0

    @property
    def pids(self) -> tuple[int, ...]:
        links = (self._first, self._taught, self._learner, *self._retiring)
        return tuple(link.pid for link in links if link is not None and link.pid)

    def drain(self) -> None:
        for link in (self._first, self._taught, self._learner, *self._retiring):
            if link is not None:
                link.drain()

    def close(self) -> None:
        self._closed = True
        for link in (self._learner, self._taught, self._first, *self._retiring):
            if link is not None:
                link.close()
        self._first = self._taught = self._learner = None

    # --- the first one --------------------------------------------------------------------------------------------

    def _open_first(self) -> NurseryLink:
        ours, theirs = packets.packet_pair()
        launcher = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._be_first(launcher, theirs.fileno())
        theirs.close()
        link = self._first = NurseryLink(self._reactor, ours, 0, self._packet, self._lost)
        link.pid = pid
        return link

    def _be_first(self, launcher: int, fd: int) -> NoReturn:
        try:
            import socket

            link = socket.socket(fileno=os.dup(fd))
            settle(launcher, (link.fileno(), *self._kept_fds), "fork parent")
            Nursery(link, self._handles, self._kept_fds).run()
        finally:
            os._exit(1)

    # --- learning -------------------------------------------------------------------------------------------------

    def _suits(self, handle: Handle) -> bool:
        """Modules read variables while they are imported: a replica with other ones gets a parent without them."""
        return self._taught is not None and not differs_in_environment(handle)

    def _begin_learning(self) -> None:
        if not enabled(Protection.LEARN) or self._closed or self._rounds >= MAX_ROUNDS or not self._learned.modules:
            return
        self._rounds += 1
        self._generation += 1
        self._news = False
        self._importing, self._skipped = "", []
        self._module_deadline = Deadline(MODULE_S)
        ours, theirs = packets.packet_pair()
        learner = self._learner = NurseryLink(self._reactor, ours, self._generation, self._packet, self._lost)
        first = self._first or self._open_first()
        modules = self._learned.modules
        pieces = _pieces(modules)
        first.send(
            {"op": "nurse", "generation": self._generation, "handles": str(self._handles), "pieces": len(pieces)},
            (theirs.fileno(),),
        )
        theirs.close()
        for piece in pieces:
            learner.send({"op": "modules", "modules": piece})
        self._watch_progress(learner)
        log.info("learning %d modules", len(modules), extra={"action": "learning", "generation": self._generation})

    def _watch_progress(self, learner: NurseryLink) -> None:
        def done() -> bool:
            if learner is not self._learner:
                return True
            if self._module_deadline.passed:
                if learner.pid:
                    os.kill(learner.pid, signal.SIGKILL)
                log.warning("%s hangs at import", self._importing, extra={"action": "preload_hangs"})
                learner.close()
                self._lost(learner)
                return True
            return False

        self._reactor.poll_until(done)

    def _packet(self, link: NurseryLink, packet: packets.Packet) -> None:
        match packet["event"]:
            case "born":
                link.pid = int(packet["pid"])
            case "importing":
                self._importing = packet["module"]
                self._module_deadline = Deadline(MODULE_S)
            case "skipped":
                self._skipped.append(packet["module"])
                log.info("not preloaded: %s (%s)", packet["module"], packet["why"], extra={"action": "preload_skipped"})
            case "spoilt":
                self._importing = packet["module"]
                log.warning(
                    "%s cannot be preloaded: %s",
                    packet["module"],
                    packet["why"],
                    extra={"action": "preload_refused"},
                )
            case "ready":
                self._take_over(link, int(packet["modules"]))
            case "forked" | "failed":
                link.unanswered -= 1
                self._on_packet(link, packet)
                self._end_retired()
            case _:
                self._on_packet(link, packet)

    def _take_over(self, link: NurseryLink, modules: int) -> None:
        before, self._taught, self._learner = self._taught, link, None
        self._rounds = 0
        self.learned_count = modules - len(self._skipped)
        if self._skipped:
            self._learned.mark_bad(self._skipped)
        log.info("learned %d modules", self.learned_count, extra={"action": "learned", "generation": link.generation})
        if before is not None:
            self._retiring.append(before)
            self._end_retired()
        if self._news:
            self._begin_learning()

    def _end_retired(self) -> None:
        """Not before it has answered: what is forked again elsewhere must not be in its queue."""
        for link in [link for link in self._retiring if not link.unanswered]:
            self._retiring.remove(link)
            link.close()
            self._on_lost(link)

    def _lost(self, link: NurseryLink) -> None:
        if link is self._learner:
            self._learner = None
            if self._importing:
                self._learned.mark_bad([self._importing, *self._skipped])
            self._begin_learning()
        elif link in self._retiring:
            self._retiring.remove(link)
            self._on_lost(link)
        elif link is self._taught:
            self._taught = None
            self.learned_count = 0
            log.error("the learned fork parent ended", extra={"action": "nursery_lost"})
            self._on_lost(link)
            if self._learner is None:
                self._begin_learning()
        elif link is self._first:
            self._first = None
            log.error("the first fork parent ended: starting another", extra={"action": "nursery_lost"})
            self._on_lost(link)
            if self._first is None and not self._closed:
                self._open_first()
            if self._learner is None and self._taught is None:
                self._begin_learning()


_HARMLESS = frozenset({"OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES"})
"""Read when they are used, or set right after the fork: no module remembers them from its import."""


def differs_in_environment(handle: Handle) -> bool:
    spec = handle.spec
    changed = any(
        os.environ.get(name) != value
        for name, value in spec.env.items()
        if name not in _HARMLESS and not name.startswith("SERVE_")
    )
    return changed or any(name in os.environ for name in spec.unset_env)


def _pieces(modules: tuple[str, ...], size: int = 1000) -> list[list[str]]:
    return [list(modules[start : start + size]) for start in range(0, len(modules), size)]
