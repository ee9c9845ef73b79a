"""One attempt of a request on one stream, at the caller's side. Made by ClientStream.open; main loop only.

It counts as reserved from then on, and until its last part was read, also after a cancel: only then is the slot at
the replica free. What arrives goes to a `RequestListener` (serve_rt.routing.exchange).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from serve_rt.errors import Outcome
from serve_rt.model.transitions import move
from serve_rt.pb import stream_pb2 as pb
from serve_rt.transport.data import Data
from serve_rt.transport.flow import Inflow
from serve_rt.transport.limits import WIDE_ANSWER_BYTES, WINDOW_BYTES
from serve_rt.transport.outbox import Lane
from serve_rt.transport.parts import cancel_part, client_credit
from serve_rt.transport.states import REQUEST_TRANSITIONS, RequestState

if TYPE_CHECKING:
    from serve_rt.transport.client_stream import ClientStream


class RequestListener(Protocol):
    """Who waits for the answer. Called on the loop, at most one of the last four, once."""

    def on_started(self) -> None: ...

    def on_part(self, part: pb.Head | Data) -> None: ...

    def on_rejected(self) -> None:
        """Provably not started: back to its place in the queue."""
        ...

    def on_ended(self) -> None:
        """The last part was given to `on_part`."""
        ...

    def on_error(self, error: pb.Error) -> None: ...

    def on_lost(self, outcome: Outcome, reason: str) -> None:
        """The stream broke; `outcome` is what is known about the work."""
        ...


class ClientRequest:
    __slots__ = ("_answer_window", "_body_window", "_lane", "_place", "_state", "id", "inflow", "listener", "stream")

    def __init__(self, stream: ClientStream, request_id: int, listener: RequestListener) -> None:
        self.id = request_id
        self.stream = stream
        self.listener: RequestListener | None = listener
        """None after a cancel: nobody waits any more."""
        self._state = RequestState.RESERVED
        self._place = 0
        self._answer_window = self._body_window = WINDOW_BYTES
        self.inflow: Inflow | None = None
        """Of the answer's Data; who reads on after the last part has arrived keeps it."""
        self._lane: Lane | None = None

    @property
    def state(self) -> RequestState:
        if self._state is RequestState.RESERVED and self.stream.outbox.taken >= self._place:
            return RequestState.WRITTEN
        return self._state

    @property
    def outcome(self) -> Outcome:
        """What is known about the work. Unknown counts as started."""
        state = self.state
        if state is RequestState.RESERVED or self.stream.drained_below(self.id):
            return Outcome.NOT_STARTED
        return Outcome.UNKNOWN if state is RequestState.WRITTEN else Outcome.STARTED

    def begin_with(self, answer_window: int, body_window: int) -> None:
        """As its Open says."""
        self._answer_window, self._body_window = answer_window, body_window

    def put_at(self, place: int) -> None:
        """The Open's place in the order of the outbox."""
        self._place = place

    # --- upstream -------------------------------------------------------------------------------------------------

    def send(self, payload: bytes, *, end: bool = False, kind: int = 0, code: int = 0, reason: str = "") -> None:
        if self._lane is None:
            self._lane = Lane(self.stream.outbox, self.id, _nothing, self._body_window)
        self.stream.data_sent += 1
        self._lane.put(payload, end, kind, code, reason)

    @property
    def has_room(self) -> bool:
        """`writable` would return at once."""
        return self._lane is None or self._lane.has_room

    async def writable(self) -> None:
        if self._lane is not None:
            await self._lane.writable()

    def cancel(self, reason: str) -> None:
        """Nobody waits for the answer any more. An Open that no write has got is taken back: it never happened."""
        if self._state is RequestState.DONE or self.listener is None:
            return
        self.listener = self.inflow = None  # what comes from now on is dropped at once
        if self._lane is not None:
            self._lane.clear()
        if self._state is RequestState.RESERVED and self.stream.outbox.withdraw(self._place):
            self.stream.drop(self)
        else:
            cancel = pb.Cancel(id=self.id, reason=reason[:500])
            self.stream.outbox.put(cancel_part(cancel.SerializeToString()))

    def consumed(self, payload: bytes) -> None:
        """The caller has read a Data part: its room is given back."""
        if self.inflow is None:
            return
        given = self.inflow.read(payload)
        if given and self._state is not RequestState.DONE:
            self.stream.outbox.put(client_credit(pb.Credit(id=self.id, bytes=given).SerializeToString()))

    # --- from the stream ------------------------------------------------------------------------------------------

    def on_accepted(self) -> None:
        if self.state is RequestState.WRITTEN:
            self._state = RequestState.STARTED
            if self.listener is not None:
                self.listener.on_started()

    def on_head(self, head: pb.Head) -> None:
        self._state = RequestState.FIRST_BYTE
        listener = self.listener
        if head.end:
            self.finish()
        if listener is not None:
            listener.on_part(head)
            if head.end:
                listener.on_ended()

    def on_data(self, part: Data) -> None:
        listener = self.listener
        if listener is not None:
            if self.inflow is None:
                self.inflow = Inflow(self.stream.budget, self._answer_window, WIDE_ANSWER_BYTES)
            self.inflow.arrived(part.payload, self.id)
        self._state = RequestState.FIRST_BYTE
        if part.end:
            self.finish()
        if listener is not None:
            listener.on_part(part)
            if part.end:
                listener.on_ended()

    def on_credit(self, count: int) -> None:
        self.on_accepted()
        if self._lane is not None:
            self._lane.grant(count)

    def on_rejected(self) -> None:
        self.finish()
        if self.listener is not None:
            self.listener.on_rejected()

    def on_error(self, error: pb.Error) -> None:
        self.finish()
        if self.listener is not None:
            self.listener.on_error(error)

    def on_ended(self) -> None:
        """User code has left after our Cancel. Without one the replica gave the work up: its caller must hear that."""
        self.on_lost("the replica ended the request without an answer")

    def on_lost(self, reason: str) -> None:
        outcome = self.outcome
        self.finish()
        if self.listener is not None:
            self.listener.on_lost(outcome, reason)

    def finish(self) -> None:
        """The last part was read, or the stream is gone: no longer reserved."""
        self._state = move(REQUEST_TRANSITIONS, self.state, RequestState.DONE, f"request {self.id}")
        if self._lane is not None:
            self._lane.clear()
        self.stream.forget(self)

    def __repr__(self) -> str:
        return f"<ClientRequest {self.id} [{self.state.value}{'' if self.listener else ', cancelled'}]>"


def _nothing() -> None:
    """An upstream Data{end} settles nothing."""
