"""The launcher's end of one fork parent: packets out in order, packets in as events, its end told once."""

from __future__ import annotations

import os
import selectors
import socket
from collections import deque
from collections.abc import Callable

from serve_rt.agents.launcher import packets
from serve_rt.agents.launcher.reactor import Reactor

_MAX_QUEUED = 10_000


class NurseryLink:
    """*Resources*: `close()` ends the fork parent; its children go on and become the launcher's."""

    def __init__(
        self,
        reactor: Reactor,
        link: socket.socket,
        generation: int,
        on_packet: Callable[[NurseryLink, packets.Packet], None],
        on_lost: Callable[[NurseryLink], None],
    ) -> None:
        self.generation = generation
        self.pid = 0
        self.closed = False
        self.unanswered = 0
        """Forks asked for and not answered yet."""
        self._reactor, self._link = reactor, link
        self._on_packet, self._on_lost = on_packet, on_lost
        self._queue: deque[tuple[packets.Packet, tuple[int, ...]]] = deque()
        link.setblocking(False)
        reactor.watch(link, selectors.EVENT_READ, self._ready)

    def __repr__(self) -> str:
        return f"<NurseryLink generation {self.generation} [{'closed' if self.closed else 'open'}]>"

    def send(self, packet: packets.Packet, fds: tuple[int, ...] = ()) -> None:
        """The descriptors are duplicated: the caller keeps its own. On a lost link `on_lost` follows."""
        if len(self._queue) >= _MAX_QUEUED:
            raise BlockingIOError(f"{len(self._queue)} requests wait for fork parent {self.generation}")
        self._queue.append((packet, tuple(os.dup(fd) for fd in fds)))
        self._flush()

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._reactor.forget(self._link)
        self._link.close()
        for _packet, fds in self._queue:
            _close(fds)
        self._queue.clear()

    def drain(self) -> None:
        """Take in what has arrived."""
        while not self.closed:
            try:
                received = packets.receive(self._link)
            except BlockingIOError:
                return
            except OSError:
                received = None
            if received is None:
                self._lost()
                return
            packet, fds = received
            _close(tuple(fds))
            self._on_packet(self, packet)

    def _ready(self, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._flush()
        if events & selectors.EVENT_READ:
            self.drain()

    def _flush(self) -> None:
        while self._queue:
            packet, fds = self._queue[0]
            try:
                packets.send(self._link, packet, fds)
            except BlockingIOError:
                break
            except OSError:
                return  # its end will be read, and told then
            self._queue.popleft()
            _close(fds)
        if not self.closed:
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._queue else 0)
            self._reactor.watch(self._link, wanted, self._ready)

    def _lost(self) -> None:
        self.close()
        self._on_lost(self)


def _close(fds: tuple[int, ...]) -> None:
    for fd in fds:
        os.close(fd)
