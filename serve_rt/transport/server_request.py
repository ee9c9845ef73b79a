"""One request at the replica: what a handler (serve_rt.replica.call) holds. Main loop only.

Two things end it, in either order: its last part has left, and its user code has (`finished`). The slot belongs to the
second, the caller's reservation to the first.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from serve_rt.errors import Outcome
from serve_rt.pb import stream_pb2 as pb
from serve_rt.transport.data import Data
from serve_rt.transport.flow import Inflow
from serve_rt.transport.limits import INLINE_BODY_BYTES, WIDE_BODY_BYTES, WINDOW_BYTES
from serve_rt.transport.message import WEBSOCKET_KINDS, MessageJoiner
from serve_rt.transport.outbox import Lane
from serve_rt.transport.parts import accepted_part, ended_part, error_part, head_part, server_credit

if TYPE_CHECKING:
    from serve_rt.transport.server_stream import ServerStream

_STATES = {
    Outcome.NOT_STARTED: pb.ERROR_STATE_NOT_STARTED,
    Outcome.STARTED: pb.ERROR_STATE_STARTED,
    Outcome.UNKNOWN: pb.ERROR_STATE_UNKNOWN,
}
MAX_ERROR_BYTES = 128 << 10
LARGEST_CODE = 0xFFFF
"""Of a WebSocket close: two bytes on its wire."""


def speakable(text: str) -> str:
    """Text of user code as protobuf takes it: lone surrogates (file names that are no UTF-8 have them) are spelled
    out. An exception with such a message must not cost its caller the answer and the replica the slot."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


class ServerRequest:
    __slots__ = (
        "_answered",
        "_body_given",
        "_incoming",
        "_inflow",
        "_joiner",
        "_lane",
        "_left",
        "_reader",
        "_stream",
        "_upstream_ended",
        "accepted",
        "cancelled",
        "deadline",
        "on_arrival",
        "on_cancel",
        "open",
        "peer",
    )

    def __init__(self, stream: ServerStream, opened: pb.Open, deadline: float | None) -> None:
        self.open = opened
        self.deadline = deadline
        """On this process's monotonic clock."""
        self.peer = stream.peer
        self.cancelled = False
        self.on_cancel: Callable[[str], None] | None = None
        """Set by the handler; called once, when the caller has gone or its stream broke."""
        self.on_arrival: Callable[[], None] | None = None
        """Called when a part has come, or none will any more: for whoever has no task to `receive` in."""
        self.accepted = False
        """The caller knows, or learns with a part that is queued, that the work began."""
        self._stream = stream
        self._lane: Lane | None = None
        self._answered = False
        self._left = False
        self._inflow: Inflow | None = None
        self._joiner: MessageJoiner | None = None
        self._body_given = False
        self._incoming: deque[Data] | None = None
        self._reader: asyncio.Future[None] | None = None
        self._upstream_ended = opened.end

    # --- answering ------------------------------------------------------------------------------------------------

    def head(
        self, status: int, headers: Sequence[bytes], *, body: bytes = b"", end: bool = False, subprotocol: str = ""
    ) -> None:
        """The answer's beginning, or all of it; `headers` is name, value, name, value, …"""
        if self.cancelled or self._answered:
            return
        self.accepted = True
        inline = len(body) <= INLINE_BODY_BYTES
        try:
            message = pb.Head(id=self.open.id, status=status, headers=headers, subprotocol=subprotocol)
        except (ValueError, TypeError) as error:  # of user code: a status of 10**12, a subprotocol that is no text
            self.fail(
                Outcome.STARTED, "UserError", f"the head of the answer (status {status!r}) cannot be sent: {error}"
            )
            return
        if inline:
            message.body = body
            message.end = end
        self._stream.send_head(head_part(message.SerializeToString()))
        if not inline:
            self.data(body, end=end)
        elif end:
            self._last_part_left()

    def data(self, payload: bytes, *, end: bool = False, kind: int = 0, code: int = 0, reason: str = "") -> None:
        if self.cancelled or self._answered:
            return
        self.accepted = True
        self._stream.data_sent += 1
        if code or reason:  # of user code: encoded later, by the writer, where it would end everybody's stream
            code, reason = code if 0 <= code <= LARGEST_CODE else 0, speakable(reason)
        self._open_lane().put(payload, end, kind, code, reason)

    def fail(self, outcome: Outcome, kind: str, message: str, *, pickled: bytes = b"", traceback: str = "") -> None:
        """The last part says what went wrong. What is too large to travel is left out, the kind and message stay."""
        if self.cancelled or self._answered:
            return
        self.accepted = True
        error = pb.Error(id=self.open.id, state=_STATES[outcome], kind=kind)
        error.message = speakable(message[:MAX_ERROR_BYTES])
        error.traceback = speakable(traceback[-MAX_ERROR_BYTES:])
        if len(pickled) <= MAX_ERROR_BYTES:
            error.pickled = pickled
        part = error_part(error.SerializeToString())
        if self._lane is not None and not self._lane.idle:
            self._lane.put_last(part)  # behind the Data that is still waiting for credit
        else:
            self._stream.outbox.put(part)
            self._last_part_left()

    def accept(self) -> None:
        """Tell the caller now that it has a slot; usually a Head or Data says so soon enough."""
        if not (self.accepted or self.cancelled or self._answered):
            self.accepted = True
            self._stream.outbox.put(accepted_part(pb.Accepted(id=self.open.id).SerializeToString()))

    async def writable(self) -> None:
        """Return when the caller has room; at once when it has left."""
        if self._lane is not None:
            await self._lane.writable()

    def finished(self) -> None:
        """User code has ended: the slot is free. The handler calls this exactly once."""
        if self._left:
            return
        self._left = True
        self._stream.service.slots.release()
        if self._answered:
            self._stream.forget(self)
        elif self.cancelled:
            self._end()
        elif self._lane is None or not self._lane.closed:
            self.fail(Outcome.STARTED, "UserError", "the handler ended without an answer")

    # --- the request's body ---------------------------------------------------------------------------------------

    def take(self) -> Data | None:
        """The next part from the caller, beginning with the Open's body; None when there is none yet, or none any more
        (`exhausted`).

        *Errors*: PeerFault for a message that is too large.
        """
        if not self._body_given:
            self._body_given = True
            if self.open.body or self.open.end:
                return Data(self.open.id, self.open.body, self.open.end)
        while self._incoming:
            part = self._incoming.popleft()
            self._give_credit(part)
            whole = self._join(part)
            if whole is not None:
                return whole
        return None

    @property
    def exhausted(self) -> bool:
        """The caller has ended or left: what `take` does not have will not come."""
        return self._upstream_ended or self.cancelled

    async def receive(self) -> Data | None:
        """The next part; None when the caller has ended or left."""
        while True:
            part = self.take()
            if part is not None or self.exhausted:
                return part
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None

    def _join(self, part: Data) -> Data | None:
        if part.kind not in WEBSOCKET_KINDS:
            return part
        if self._joiner is None:
            self._joiner = MessageJoiner()
        return self._joiner.add(part)

    def _give_credit(self, part: Data) -> None:
        if self._inflow is None:
            return
        given = self._inflow.read(part.payload)
        if given and not (part.end or self.cancelled):
            credit = pb.Credit(id=self.open.id, bytes=given)
            self._stream.outbox.put(server_credit(credit.SerializeToString()))
            self.accepted = True

    # --- from the stream ------------------------------------------------------------------------------------------

    def on_data(self, part: Data) -> None:
        if self.cancelled or self._left:
            return
        if self._inflow is None:
            window = min(self.open.body_window or WINDOW_BYTES, WINDOW_BYTES)
            self._inflow = Inflow(self._stream.budget, window, WIDE_BODY_BYTES)
        self._inflow.arrived(part.payload, part.id)
        if self._incoming is None:
            self._incoming = deque()
        self._incoming.append(part)
        self._upstream_ended = self._upstream_ended or part.end
        self._wake_reader()

    def on_credit(self, count: int) -> None:
        if self._lane is not None:
            self._lane.grant(count)

    def cancel(self, reason: str) -> None:
        """The caller has gone: drop what waits for it, tell the handler; `Ended` follows when user code has left."""
        if self._answered or self.cancelled:
            return
        self.cancelled = True
        if self._lane is not None:
            self._lane.clear()
        self._wake_reader()
        if self._left:
            self._end()
        elif self.on_cancel is not None:
            self.on_cancel(reason)

    def _wake_reader(self) -> None:
        if self.on_arrival is not None:
            self.on_arrival()
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _open_lane(self) -> Lane:
        if self._lane is None:
            window = min(self.open.answer_window or WINDOW_BYTES, WINDOW_BYTES)
            self._lane = Lane(self._stream.outbox, self.open.id, self._last_part_left, window)
        return self._lane

    def _end(self) -> None:
        if not self._stream.closed:  # a caller that did not cancel must see the stream break, not an Ended
            self._stream.outbox.put(ended_part(pb.Ended(id=self.open.id).SerializeToString()))
        self._last_part_left()

    def _last_part_left(self) -> None:
        self._answered = True
        if self._left:
            self._stream.forget(self)

    def __repr__(self) -> str:
        answer = "answered" if self._answered else "cancelled" if self.cancelled else "running"
        return f"<ServerRequest {self.open.id} [{answer}{', left' if self._left else ''}] of {self.peer}>"
