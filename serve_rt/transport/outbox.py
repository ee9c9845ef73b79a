"""What waits to be written on one stream, and how it is cut into frames.

Parts of control (Open, Head, Credit, …) leave in order at the head of the next frame; Data waits in one `Lane` per
request, and each lane with credit gives one piece per frame. Nothing is held back: whoever writes takes a frame
whenever it is idle, and what gathers while a write is in flight leaves together. No time, no I/O in here.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from serve_rt.pb import stream_pb2 as pb
from serve_rt.transport.flow import cost
from serve_rt.transport.limits import (
    FRAME_BYTES,
    LARGE_PART_BYTES,
    MOST_UNREAD_PARTS,
    PART_COST_BYTES,
    PIECE_BYTES,
    SHARED_PIECE_BYTES,
    SMALLEST_SPLIT_BYTES,
    UNREAD_PARTS,
    UNREAD_PARTS_BYTES,
)
from serve_rt.transport.parts import AROUND, DATA_END, Wrap, encode_data

_SPLIT_FREELY = pb.DATA_KIND_BODY
MORE_FOLLOWS = 1
"""`Data.code` of a piece of a message that goes on in the next piece."""


class Outbox:
    def __init__(self, data_part: Wrap) -> None:
        self.data_part = data_part
        self.before_body = AROUND[data_part]
        self.taken = 0
        """How many control parts have been handed to a write."""
        self._control: deque[bytes] = deque()
        self._lanes: deque[Lane] = deque()
        self._waiting: asyncio.Future[None] | None = None
        self._closed = False

    def put(self, part: bytes) -> int:
        """Queue a control part; its place in the order of all control parts."""
        self._control.append(part)
        if self._waiting is not None:
            self._wake()
        return self.taken + len(self._control)

    def withdraw(self, place: int) -> bool:
        """Take back a control part that no write has got yet; whether that was still possible."""
        index = place - self.taken - 1
        if index < 0:
            return False
        self._control[index] = b""
        return True

    @property
    def overfull(self) -> bool:
        """More control parts wait than a peer that reads can cause. (Data is bounded by credit.)"""
        parts = len(self._control)
        if parts <= UNREAD_PARTS:
            return False
        return parts > MOST_UNREAD_PARTS or sum(map(len, self._control)) > UNREAD_PARTS_BYTES

    def schedule(self, lane: Lane) -> None:
        self._lanes.append(lane)
        if self._waiting is not None:
            self._wake()

    def take(self) -> bytes | None:
        """The next frame, or None when nothing can be sent now."""
        control, lanes = self._control, self._lanes
        if not lanes:
            if not control:
                return None
            if len(control) == 1:  # the usual at one connection
                self.taken += 1
                return control.popleft() or self.take()
        pieces: list[bytes | memoryview] = []
        size = 0
        while control and (not pieces or size + len(control[0]) <= FRAME_BYTES):
            part = control.popleft()
            self.taken += 1
            size += len(part)
            pieces.append(part)
        if lanes and not control:  # no Data before its Head
            self._take_data(pieces, size)
        return b"".join(pieces) or None

    def _take_data(self, pieces: list[bytes | memoryview], size: int) -> None:
        lanes = self._lanes
        share = PIECE_BYTES if len(lanes) == 1 else SHARED_PIECE_BYTES
        for _ in range(len(lanes)):
            room = FRAME_BYTES - size
            if room < share:
                break
            lane = lanes.popleft()
            size += lane.take(pieces, share)
            if lane.sendable():
                lanes.append(lane)
            else:
                lane.scheduled = False

    async def ready(self) -> bool:
        """Return when there is something to take; False when the outbox is closed and empty. One waiter only."""
        while not self._control and not self._lanes:
            if self._closed:
                return False
            self._waiting = asyncio.get_running_loop().create_future()
            try:
                await self._waiting
            finally:
                self._waiting = None
        return True

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def close(self) -> None:
        """What is queued may still leave; then the writer ends."""
        self._closed = True
        self._wake()

    def discard(self) -> None:
        """The stream broke: nothing can leave any more."""
        self._control.clear()
        self._lanes.clear()
        self.close()


class Lane:
    """The Data of one request on its way out: whole payloads in, pieces within credit out."""

    __slots__ = ("_credit", "_items", "_on_last", "_outbox", "_writable", "backlog", "closed", "id", "scheduled")

    def __init__(self, outbox: Outbox, request_id: int, on_last: Callable[[], None], window: int) -> None:
        self.id = request_id
        self.backlog = 0
        """Bytes queued here."""
        self.scheduled = False
        self.closed = False
        self._outbox = outbox
        self._on_last = on_last
        self._credit = window
        self._items: deque[_Item] = deque()
        self._writable: list[asyncio.Future[None]] = []

    def put(self, payload: bytes, end: bool, kind: int = 0, code: int = 0, reason: str = "") -> None:
        if self.closed:
            return
        self.closed = end
        self.backlog += cost(payload)
        self._items.append((payload, end, kind, code, reason))
        self._schedule()

    def put_last(self, part: bytes) -> None:
        """An Error: leaves after the Data before it and needs no credit."""
        if not self.closed:
            self.closed = True
            self._items.append(part)
            self._schedule()

    @property
    def idle(self) -> bool:
        """Nothing queued: what comes next would be the first in line."""
        return not self._items

    def grant(self, count: int) -> None:
        self._credit += count
        self._schedule()
        self._let_writers_go()

    @property
    def has_room(self) -> bool:
        """More may be put without filling memory: the queued bytes are covered by credit."""
        return self.backlog < self._credit or self.closed

    async def writable(self) -> None:
        """Return when there is room."""
        while not self.has_room:
            room: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._writable.append(room)
            await room

    def clear(self) -> None:
        """Drop what is queued and accept no more."""
        self.closed = True
        self._items.clear()
        self.backlog = 0
        self._let_writers_go()

    def sendable(self) -> bool:
        if not self._items:
            return False
        item = self._items[0]
        if isinstance(item, bytes):
            return True
        return self._credit >= PART_COST_BYTES + min(len(item[0]), SMALLEST_SPLIT_BYTES)

    def take(self, pieces: list[bytes | memoryview], limit: int) -> int:
        """Append up to `limit` bytes of parts; the size of what was appended."""
        items, wrap = self._items, self._outbox.data_part
        size = 0
        while self.sendable():
            item = items[0]
            if isinstance(item, bytes):
                items.popleft()
                pieces.append(item)
                size += len(item)
                self._on_last()
                break
            payload, end, kind, code, reason = item
            room = min(limit - size, self._credit - PART_COST_BYTES)
            if len(payload) > room:
                if size:  # a piece of its own, in the next round
                    break
                rest = memoryview(payload)  # a view: a payload of 100 MB is not copied at each piece
                items[0] = (rest[room:], end, kind, code, reason)
                code = 0 if kind == _SPLIT_FREELY else MORE_FOLLOWS
                payload, end, reason = rest[:room], False, ""
                self.backlog += PART_COST_BYTES
            else:
                items.popleft()
            spent = len(payload) + PART_COST_BYTES
            self._credit -= spent
            self.backlog -= spent
            if spent >= LARGE_PART_BYTES and not (kind or code or reason):
                pieces += (self._outbox.before_body(self.id, len(payload), end), payload)
                if end:
                    pieces.append(DATA_END)
            else:
                pieces.append(wrap(encode_data(self.id, payload, end, kind, code, reason)))
            size += spent
            if end:
                self._on_last()
            if size + PART_COST_BYTES > limit:
                break
        return size

    def _schedule(self) -> None:
        if not self.scheduled and self.sendable():
            self.scheduled = True
            self._outbox.schedule(self)

    def _let_writers_go(self) -> None:
        waiting, self._writable = self._writable, []
        for room in waiting:
            if not room.done():
                room.set_result(None)


_Item = tuple[bytes | memoryview, bool, int, int, str] | bytes
"""payload, end, kind, code, reason; or an encoded last part."""
