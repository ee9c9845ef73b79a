"""Wires between simulated machines, and the pipes that streams are made of.

A pipe keeps the order of what is sent, as TCP does. A cut wire holds it back: healed soon, all of it arrives late;
not healed, keepalive breaks the stream (`SimNetwork.break_streams`) and what was under way is lost. Machines are named
by their node; a wire may be cut in one direction only.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable

import grpc.aio

from serve_rt.testing.sim_loop import SimLoop

KEEPALIVE_S = (5.0, 15.0)
"""Control channels ping every 10 s and wait 5: a wire that died is found between these."""


class Broken(Exception):
    """The stream ended with an error."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        super().__init__(str(error))
        self.error = error


class Wires:
    """Which machine reaches which, and how slowly."""

    def __init__(self, loop: SimLoop) -> None:
        self.loop = loop
        self.context = contextvars.Context()
        """Of what happens on the wire: no process's pause holds it up."""
        self.delays_s: tuple[float, float] = (0.0003, 0.003)
        self._cut: dict[tuple[str, str], int] = {}
        self._off: set[str] = set()
        self._pipes: dict[Pipe, None] = {}
        self._port = 30000

    def next_port(self) -> int:
        self._port += 1
        return self._port

    def open(self, source: str, target: str) -> bool:
        if target in self._off or source in self._off:
            return False
        return source == target or not (self._cut.get((source, target)) or self._cut.get((target, source)))

    def flows(self, source: str, target: str) -> bool:
        """Whether what is sent arrives: one direction alone may be cut."""
        if target in self._off or source in self._off:
            return False
        return not self._cut.get((source, target))

    def powered(self, node: str) -> bool:
        return node not in self._off

    def cut(self, source: str, target: str) -> None:
        self._cut[source, target] = self._cut.get((source, target), 0) + 1

    def heal(self, source: str, target: str) -> None:
        self._cut[source, target] = max(0, self._cut.get((source, target), 0) - 1)
        self._flush()

    def switch_off(self, node: str) -> None:
        self._off.add(node)

    def switch_on(self, node: str) -> None:
        self._off.discard(node)
        self._flush()

    def delay_s(self, source: str, target: str) -> float:
        return 0.0 if source == target else self.loop.random.uniform(*self.delays_s)

    def keepalive_s(self) -> float:
        return self.loop.random.uniform(*KEEPALIVE_S)

    async def travel(self, source: str, target: str) -> None:
        """One message of a call; it waits while the wire is cut, its caller's time limit runs on."""
        await asyncio.sleep(self.delay_s(source, target))
        while not self.flows(source, target):  # noqa: ASYNC110 - time is virtual, events would be more to keep
            await asyncio.sleep(0.5)

    def later(self, delay_s: float, call: Callable[..., object], *arguments: object) -> None:
        self.loop.call_later(delay_s, call, *arguments, context=self.context)

    def holds(self, pipe: Pipe) -> None:
        self._pipes[pipe] = None

    def _flush(self) -> None:
        for pipe in tuple(self._pipes):
            if pipe.flush():
                del self._pipes[pipe]


class Pipe:
    """One direction of a stream. `None` is its orderly end."""

    def __init__(self, wires: Wires, source: str, target: str) -> None:
        self._wires, self._source, self._target = wires, source, target
        self._last_at = 0.0
        self._held: deque[bytes | Broken | None] = deque()
        self._arrived: deque[bytes | Broken | None] = deque()
        self._waiting: asyncio.Future[None] | None = None
        self._ended = False
        self.stalled = False

    def stall(self) -> None:
        self.stalled = True

    def unstall(self) -> None:
        self.stalled = False
        self.flush()

    def send(self, data: bytes | None) -> None:
        self._under_way(data)

    def send_end(self, error: grpc.aio.AioRpcError) -> None:
        self._under_way(Broken(error))

    def end(self, error: grpc.aio.AioRpcError) -> None:
        """Now, whatever is under way: the connection is gone."""
        if not self._ended:
            self._held.clear()
            self._arrive(Broken(error))

    async def receive(self) -> bytes | None:
        """*Errors*: Broken."""
        while not self._arrived:
            self._waiting = asyncio.get_running_loop().create_future()
            try:
                await self._waiting
            finally:
                self._waiting = None
        item = self._arrived.popleft()
        if isinstance(item, Broken):
            raise item
        return item

    def _under_way(self, item: bytes | Broken | None) -> None:
        wires = self._wires
        self._last_at = max(self._last_at, wires.loop.time() + wires.delay_s(self._source, self._target))
        self._held.append(item)
        wires.loop.call_at(self._last_at, self._deliver, context=wires.context)

    def _deliver(self) -> None:
        """One message; none that a cut wire holds back."""
        if not self._held:
            return
        if self.stalled:
            return
        if not self._wires.flows(self._source, self._target):
            self._wires.holds(self)
            return
        self._arrive(self._held.popleft())

    def flush(self) -> bool:
        if self.stalled or not self._wires.flows(self._source, self._target):
            return False
        while self._held:
            self._arrive(self._held.popleft())
        return True

    def _arrive(self, item: bytes | Broken | None) -> None:
        if self._ended:
            return
        self._ended = item is None or isinstance(item, Broken)
        self._arrived.append(item)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)
