"""The front's side of its nurseries: makes them, asks the current one to fork, retires the old.

At most one is *current* (forks replicas) and one is *learning* (imports). When the learning one is ready it becomes
current and the old one is retired. One that turns out unsafe is dropped, its module remembered as bad, and learning
starts again without it.
"""

from __future__ import annotations

import gc
import logging
import os
import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from serve_rt.agents.launcher import learned as learned_file
from serve_rt.agents.launcher.learned import Learned
from serve_rt.agents.launcher.nursery import run_nursery
from serve_rt.agents.launcher.protocol import (
    Fork,
    Forked,
    FromNursery,
    Go,
    Import,
    Imported,
    LineBuffer,
    Reaped,
    Retire,
    ToNursery,
    from_nursery_decoder,
    line,
)
from serve_rt.agents.launcher.records import SpawnSpec

log = logging.getLogger(__name__)
FORK_ANSWER_S = 10.0
MAX_BAD_IN_A_ROW = 50


@dataclass(slots=True, eq=False)
class Link:
    """One nursery as the front sees it."""

    pid: int
    channel: socket.socket
    modules: tuple[str, ...]
    buffer: LineBuffer = field(default_factory=LineBuffer)
    inbox: deque[FromNursery] = field(default_factory=deque)
    ready: bool = False

    def say(self, message: ToNursery) -> bool:
        try:
            self.channel.sendall(line(message))
        except OSError:
            return False
        return True

    def receive(self) -> bool:
        """Take in what came; false at its end."""
        try:
            data = self.channel.recv(1 << 16)
        except OSError:
            return False
        self.inbox.extend(from_nursery_decoder.decode(text) for text in self.buffer.feed(data))
        return bool(data)


class Nurseries:
    def __init__(
        self,
        path: Path,
        selector: selectors.BaseSelector,
        on_reaped: Callable[[int, int], None],
        in_child: Callable[[], None],
    ) -> None:
        self._path = path
        self._selector = selector
        self._on_reaped = on_reaped
        self._in_child = in_child
        self._learned = learned_file.load(path)
        self._links: dict[int, Link] = {}
        self._current: Link | None = None
        self._learning: Link | None = None
        self._bad_in_a_row = 0

    @property
    def pids(self) -> frozenset[int]:
        return frozenset(self._links)

    @property
    def learning(self) -> bool:
        return self._learning is not None

    @property
    def learned(self) -> Learned:
        return self._learned

    @property
    def preloaded(self) -> int:
        return len(self._current.modules) if self._current is not None else 0

    def learn(self, modules: tuple[str, ...]) -> None:
        """Have the next replicas find `modules` imported."""
        grown = self._learned.plus(modules)
        if grown is self._learned:
            return
        self._learned = grown
        learned_file.save(self._path, grown)
        self._bad_in_a_row = 0
        self.begin()

    def begin(self) -> None:
        """Make a nursery that knows all that was learned, unless one does already."""
        wanted = self._learned.modules
        best = self._learning or self._current
        if not wanted or (best is not None and best.modules == wanted):
            return
        if self._learning is not None:
            self._drop(self._learning)
        self._learning = self._make(wanted)
        self._learning.say(Import(wanted))
        log.info("learning %d modules", len(wanted), extra={"action": "learning", "pid": self._learning.pid})

    def fork(self, spec: SpawnSpec) -> tuple[int, Callable[[], None]] | None:
        """Fork a replica from the current nursery: its pid and how to let it begin; None: fork it yourself."""
        link = self._current
        if link is None or not link.say(Fork(spec)):
            return None
        give_up = time.monotonic() + FORK_ANSWER_S
        link.channel.settimeout(FORK_ANSWER_S)
        try:
            while time.monotonic() < give_up:
                for message in tuple(link.inbox):
                    if isinstance(message, Forked):
                        link.inbox.remove(message)
                        return message.pid, partial(self._begin, link, message.pid)
                if not link.receive():
                    break
        finally:
            link.channel.settimeout(None)
        log.error("the nursery does not answer: dropping it", extra={"action": "nursery_lost", "pid": link.pid})
        self._drop(link)
        return None

    def _begin(self, link: Link, pid: int) -> None:
        link.say(Go(pid))  # if the nursery has died, its child ends at its gate and is reaped like any other

    def readable(self, link: Link) -> None:
        """Called by the front's loop."""
        alive = link.receive()
        self.deliver(link)
        if not alive:
            self._forget(link)

    def deliver(self, link: Link) -> None:
        while link.inbox:
            message = link.inbox.popleft()
            if isinstance(message, Reaped):
                self._on_reaped(message.pid, message.status)
            elif isinstance(message, Imported):
                self._imported(link, message)

    def pending(self) -> list[Link]:
        """Links with messages that came in while `fork` was waiting."""
        return [link for link in self._links.values() if link.inbox]

    def ended(self, pid: int) -> None:
        """The front reaped a nursery."""
        link = self._links.get(pid)
        if link is not None:
            while link.receive():  # what it said last: ends of its children
                pass
            self.deliver(link)
            self._forget(link)

    def _imported(self, link: Link, message: Imported) -> None:
        if link is not self._learning:
            return
        self._learning = None
        if message.bad:
            self._remember_bad(message)
            return
        old, self._current = self._current, link
        link.ready = True
        log.info("learned", extra={"action": "learned", "pid": link.pid, "modules": message.modules})
        if old is not None:
            old.say(Retire())

    def _remember_bad(self, message: Imported) -> None:
        log.warning(
            "%s is not preloaded: %s",
            message.bad,
            message.reason,
            extra={"action": "module_bad", "module": message.bad},
        )
        self._learned = self._learned.without(message.bad)
        learned_file.save(self._path, self._learned)
        self._bad_in_a_row += 1
        if self._bad_in_a_row <= MAX_BAD_IN_A_ROW:
            self.begin()

    def _make(self, modules: tuple[str, ...]) -> Link:
        ours, theirs = socket.socketpair()
        gc.freeze()
        pid = os.fork()
        if pid == 0:
            ours.detach()
            self._in_child()
            run_nursery(theirs)
        theirs.close()
        link = Link(pid, ours, modules)
        self._links[pid] = link
        self._selector.register(ours, selectors.EVENT_READ, link)
        return link

    def _drop(self, link: Link) -> None:
        """End a nursery that is not wanted; its children, if any, become ours."""
        if link is self._learning:
            self._learning = None
        if link is self._current:
            self._current = None
        if not link.ready:
            os.kill(link.pid, signal.SIGKILL)
        else:
            link.say(Retire())

    def _forget(self, link: Link) -> None:
        if self._links.pop(link.pid, None) is None:
            return
        self._selector.unregister(link.channel)
        link.channel.close()
        if link is self._current:
            self._current = None
        if link is self._learning:
            self._learning = None
