"""Clients that leave while nothing is read from them: the end of what they sent stands behind what was not read yet.

Reading pauses while a body's buffer is full and while requests wait in a pipeline, and a loop that does not read is
told nothing. So connections that are paused are looked after by an epoll of their own, which knows hang-ups and resets
only, and which the loop watches like a socket. One system call at each pause and one at its end. What it cannot know: a
client that left with more under way than the kernel takes in, whose word for it waits in its own kernel.
"""

from __future__ import annotations

import asyncio
import contextlib
import select

from uvicorn.protocols.http.flow_control import FlowControl


class HangUps:
    """*Resources*: `close`."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._paused: dict[int, asyncio.Transport] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def watch(self, fd: int, transport: asyncio.Transport) -> None:
        """Close the connection when its client closes, or closes its half: that counts as gone wherever it is seen."""
        if self._epoll.closed:
            return
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._epoll.fileno(), self._look)
        self._paused[fd] = transport
        with contextlib.suppress(OSError):  # the kernel's limit of watches: then it is noticed late
            self._epoll.register(fd, select.EPOLLRDHUP)

    def forget(self, fd: int, transport: asyncio.Transport) -> None:
        """A descriptor that was closed has left by itself, and may be another connection's by now."""
        if self._paused.get(fd) is transport:
            del self._paused[fd]
            with contextlib.suppress(OSError):
                self._epoll.unregister(fd)

    def _look(self) -> None:
        for fd, _ in self._epoll.poll(0):
            transport = self._paused.get(fd)
            if transport is not None:
                self.forget(fd, transport)
                transport.abort()

    def close(self) -> None:
        if self._loop is not None:
            self._loop.remove_reader(self._epoll.fileno())
            self._loop = None
        self._paused.clear()
        self._epoll.close()


class WatchedFlow(FlowControl):
    """uvicorn's, for a connection that is looked after while it is paused."""

    def __init__(self, transport: asyncio.Transport, hang_ups: HangUps) -> None:
        super().__init__(transport)
        self._hang_ups = hang_ups
        self._fd: int = transport.get_extra_info("socket").fileno()

    def pause_reading(self) -> None:
        if not self.read_paused and not self._transport.is_closing():
            super().pause_reading()
            self._hang_ups.watch(self._fd, self._transport)

    def resume_reading(self) -> None:
        if self.read_paused:
            self._hang_ups.forget(self._fd, self._transport)
            super().resume_reading()

    def closed(self) -> None:
        self._hang_ups.forget(self._fd, self._transport)
