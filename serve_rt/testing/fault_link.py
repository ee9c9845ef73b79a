"""A bad network between a caller and what it calls: a TCP proxy that delays, cuts up, holds back, swallows and resets.

    async with fault_link("127.0.0.1", replica_port) as link:      # callers connect to link.port
        link.back.mode = Mode.DROP                                  # requests arrive, answers vanish
        ...
        assert link.back.bitten                                     # the fault was no fault otherwise
        link.heal()

A fault stands in one direction (`there`: to the target; `back`: from it) and acts on open connections and on new ones.
While a direction does not flow, neither bytes nor the end of a connection pass: nobody sends RST or FIN, as on a link
that was unplugged. New connections are still accepted, by us: what is behind them stays silent.

What it does not do: lose packets. TCP hides lost packets as delay, so HOLD and then `heal` is what a short outage looks
like to a program; DROP leaves a hole in the bytes, so `heal` resets the connections that have one.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import random
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

CHUNK_BYTES = 64 * 1024
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of zero seconds: closing sends RST."""


class Mode(enum.Enum):
    FORWARD = "FORWARD"
    HOLD = "HOLD"
    """Kept until the link is healed; a sender fills its buffers and then waits."""
    DROP = "DROP"
    """Taken and thrown away."""


@dataclass
class Way:
    """What happens to the bytes of one direction, from now on."""

    mode: Mode = Mode.FORWARD
    delay_s: float = 0.0
    """What was read waits so long; what comes meanwhile goes after it, together."""
    piece_bytes: int = 0
    """0: as they come. 1: every byte is a write of its own."""
    stall_share: float = 0.0
    """Of what is read at a time, so much waits `stall_s` more."""
    stall_s: float = 0.2
    passed_bytes: int = 0
    bitten: int = 0
    """Bytes and ends of connections that were held, dropped, delayed or cut up since the last heal."""
    flows: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    def heal(self) -> None:
        self.mode, self.delay_s, self.piece_bytes, self.stall_share, self.bitten = Mode.FORWARD, 0.0, 0, 0.0, 0
        self.flows.set()

    def stop(self, mode: Mode) -> None:
        self.mode = mode
        self.flows.clear()


class FaultLink:
    """*Resources*: `fault_link` starts and closes it."""

    def __init__(self, host: str, port: int, *, seed: int = 0) -> None:
        self.target = (host, port)
        self.port = 0
        self.there = Way()
        self.back = Way()
        self.reset_share = 0.0
        """Of the new connections: they are reset after `reset_within_bytes`, at random."""
        self.reset_within_bytes = 4096
        self.connections = 0
        self.resets = 0
        self._random = random.Random(seed)
        self._open: set[_Connection] = set()
        self._server: asyncio.Server | None = None
        self.heal()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def open(self) -> int:
        """Connections that stand."""
        return len(self._open)

    # --- faults ---------------------------------------------------------------------------------------------------

    def half_open(self) -> None:
        """Nothing passes in either direction, and nobody is told."""
        self.there.stop(Mode.HOLD)
        self.back.stop(Mode.HOLD)

    def swallow(self, way: Way) -> None:
        """One direction loses everything, the other flows."""
        way.stop(Mode.DROP)

    def rough(self, *, piece_bytes: int = 1, stall_share: float = 0.05, stall_s: float = 0.2) -> None:
        """Both directions in small pieces, with a stall now and then."""
        for way in (self.there, self.back):
            way.piece_bytes, way.stall_share, way.stall_s = piece_bytes, stall_share, stall_s

    def reset(self, share: float = 1.0) -> int:
        """RST to both ends of open connections, chosen at random; how many."""
        chosen = [connection for connection in self._open if self._random.random() < share]
        for connection in chosen:
            self._reset(connection)
        return len(chosen)

    def heal(self) -> None:
        """Everything flows again; connections with a hole in them are reset."""
        self.reset_share = 0.0
        for connection in [one for one in self._open if one.has_hole]:
            self._reset(connection)
        for way in (self.there, self.back):
            way.heal()

    def _reset(self, connection: _Connection) -> None:
        self.resets += 1
        connection.abort()
        connection.relay.cancel()

    # --- life -----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=CHUNK_BYTES)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        relays = [connection.relay for connection in self._open]
        for relay in relays:
            relay.cancel()
        await asyncio.gather(*relays, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        relay = asyncio.current_task()
        assert relay is not None
        doomed = self._random.random() < self.reset_share
        connection = _Connection(relay, [writer], self._random.randrange(self.reset_within_bytes) if doomed else None)
        self._open.add(connection)
        try:
            target_reader, target_writer = await asyncio.open_connection(*self.target, limit=CHUNK_BYTES)
            connection.writers.append(target_writer)
            async with asyncio.TaskGroup() as ways:
                ways.create_task(self._relay(connection, self.there, reader, target_writer), name="link there")
                ways.create_task(self._relay(connection, self.back, target_reader, writer), name="link back")
        except* (OSError, asyncio.CancelledError):
            connection.abort()  # one end was reset, or nobody listens: so it is for the other
        finally:
            self._open.discard(connection)
            for each in connection.writers:
                each.close()

    async def _relay(
        self, connection: _Connection, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        ended = False
        while not ended:
            try:
                data = await reader.read(CHUNK_BYTES)
            except ConnectionResetError:
                await self._passable(way)
                raise
            ended = not data
            if way.mode is Mode.DROP and not ended:
                way.bitten += len(data)
                connection.has_hole = True
                continue
            if way.mode is not Mode.FORWARD:
                way.bitten += max(1, len(data))
                await self._passable(way)
            if ended:
                writer.write_eof()
            else:
                await self._forward(connection, way, data, writer)

    async def _passable(self, way: Way) -> None:
        while way.mode is not Mode.FORWARD:
            await way.flows.wait()

    async def _forward(self, connection: _Connection, way: Way, data: bytes, writer: asyncio.StreamWriter) -> None:
        if way.delay_s:
            way.bitten += len(data)
            await asyncio.sleep(way.delay_s)
        if self._random.random() < way.stall_share:
            way.bitten += len(data)
            await asyncio.sleep(way.stall_s)
        step = way.piece_bytes or len(data)
        if step < len(data):
            way.bitten += len(data)
        for start in range(0, len(data), step):
            piece = data[start : start + step]
            writer.write(piece)
            await writer.drain()
            if step < len(data):
                await asyncio.sleep(0)  # a write is sent at once; the receiver's turn in between
            way.passed_bytes += len(piece)
            if connection.spend(len(piece)):
                self.resets += 1
                raise ConnectionResetError("its time has come")


@dataclass(eq=False)
class _Connection:
    relay: asyncio.Task[None]
    writers: list[asyncio.StreamWriter]
    left_bytes: int | None
    """Until it is reset; None: it is not."""
    has_hole: bool = False

    def spend(self, count: int) -> bool:
        if self.left_bytes is None:
            return False
        self.left_bytes -= count
        return self.left_bytes <= 0

    def abort(self) -> None:
        """RST to both ends."""
        for writer in self.writers:
            sock = writer.get_extra_info("socket")
            if sock is not None and sock.fileno() >= 0:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()


@contextlib.asynccontextmanager
async def fault_link(host: str, port: int, *, seed: int = 0) -> AsyncIterator[FaultLink]:
    link = FaultLink(host, port, seed=seed)
    await link.start()
    try:
        yield link
    finally:
        await link.close()
