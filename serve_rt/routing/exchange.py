"""One request and its answer, as the proxy or a handle holds it: it survives attempts that did not count.

A router puts it on a stream; a Rejected or a safe retry brings it back to its place in the queue without its reader
noticing. Exactly one thing ends it: the last part, an error, or a cancel.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from serve_rt import errors
from serve_rt.errors import Outcome, RequestCancelledError
from serve_rt.model.routes import ReplicaRoute
from serve_rt.pb import stream_pb2 as pb
from serve_rt.routing.failures import error_of
from serve_rt.routing.link import Link
from serve_rt.routing.outgoing import Outgoing
from serve_rt.transport.client import ClientRequest, RequestState
from serve_rt.transport.data import Data
from serve_rt.transport.message import WEBSOCKET_KINDS, MessageJoiner, whole_message

if TYPE_CHECKING:
    from serve_rt.routing.router import Router
    from serve_rt.transport.flow import Inflow

REPLAY_BYTES = 1 << 20
"""Of a streamed body, what is kept for a retry."""


class Exchange:
    """*Resources*: read to the end, or `cancel`; nothing else is held."""

    __slots__ = (
        "_answer_began",
        "_deadline_timer",
        "_error",
        "_joiner",
        "_offer",
        "_on_answer",
        "_over",
        "_parts",
        "_reader",
        "_reservation",
        "_router",
        "_sent",
        "_sent_bytes",
        "_started",
        "_starting",
        "_unread",
        "arrival",
        "attempt",
        "link",
        "opened",
        "put_s",
        "queue_timer",
        "queued_s",
        "request",
        "reserved_s",
        "retried",
        "waited_s",
    )

    def __init__(self, router: Router, request: Outgoing, arrival: int) -> None:
        self.request = request
        self.arrival = arrival
        self.opened = request.opened()
        self.attempt: ClientRequest | None = None
        self.link: Link | None = None
        """Of the latest attempt; a retry goes elsewhere."""
        self.retried = False
        self.reserved_s = 0.0
        """When it got the slot it had waited for; 0.0 for one that never waited."""
        self.put_s = 0.0
        """When it was put on a replica; kept for a guarded route only."""
        self.queued_s = self.waited_s = 0.0
        """Since when it waits for a slot, and how long it had waited before: a Rejected does not begin that anew."""
        self.queue_timer: asyncio.TimerHandle | None = None
        self._deadline_timer: asyncio.TimerHandle | None = None
        self._router = router
        self._parts: deque[pb.Head | Data] = deque()
        self._unread: Inflow | None = None
        self._reader: asyncio.Future[None] | None = None
        self._on_answer: Callable[[], None] | None = None
        self._reservation: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        self._over = False
        self._answer_began = False
        self._started = False
        self._starting: asyncio.Future[None] | None = None
        self._joiner: MessageJoiner | None = None
        self._offer: Callable[[bytes, int], bool] | None = None
        self._sent: list[tuple[bytes, bool, int, int, str]] | None = None
        self._sent_bytes = 0

    # --- for the caller -------------------------------------------------------------------------------------------

    @property
    def replica_id(self) -> str:
        """Of the latest attempt, "" while waiting for the first."""
        return self.link.route.replica_id if self.link is not None else ""

    @property
    def route(self) -> ReplicaRoute | None:
        """Of the replica of the latest attempt."""
        return self.link.route if self.link is not None else None

    @property
    def state(self) -> RequestState:
        if self._over:
            return RequestState.DONE
        return self.attempt.state if self.attempt is not None else RequestState.QUEUED

    async def read(self) -> pb.Head | Data | None:
        """The next part of the answer; None after the last one. Reading gives the replica room to send on.

        *Errors*: UserCodeError, or the RequestError that ended the request.
        """
        while True:
            part = self.take()
            if part is not None or self._over:
                return part
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None

    def take(self) -> pb.Head | Data | None:
        """`read` without waiting: None also when the next part is not here yet."""
        while self._parts:
            part = self._parts.popleft()
            if isinstance(part, pb.Head):
                return part
            if self.attempt is not None:
                self.attempt.consumed(part.payload)
            elif self._unread is not None:
                self._unread.read(part.payload)
            if part.kind not in WEBSOCKET_KINDS:
                return part
            joined = self._join(part)
            if joined is not None:
                return joined
        if self._error is not None:
            raise self._error
        return None

    def when_answered(self, call: Callable[[], None]) -> None:
        """Run `call` once, when the first part is here or when there will be none: for whoever has no task to wait in.
        It is run by the stream, between two of its parts, and must not raise."""
        if self._parts or self._over:
            call()
        else:
            self._on_answer = call

    def send(self, payload: bytes, *, end: bool = False, kind: int = 0, code: int = 0, reason: str = "") -> None:
        """More of the request's body, or a WebSocket message. Call `send_ready` in between."""
        if self._over:
            return
        if self._sent is None and not self._sent_bytes:
            self._sent = []
        self._sent_bytes += len(payload) + 1
        if self._sent is not None:
            self._sent.append((payload, end, kind, code, reason))
            self._forget_what_cannot_be_replayed()
        if self.attempt is not None:
            self.attempt.send(payload, end=end, kind=kind, code=code, reason=reason)

    def send_at_once(self, payload: bytes, kind: int) -> bool:
        """`send` a WebSocket message for which there is room; False: nothing was done."""
        if self.attempt is None or not self.attempt.has_room:
            return False
        self.send(payload, kind=kind)
        return True

    def offer_messages(self, take: Callable[[bytes, int], bool]) -> None:
        """From now on a WebSocket message that comes while a reader waits is offered to `take`. It must not raise."""
        self._offer = take

    async def send_ready(self) -> None:
        """Return when more may be sent without filling memory, or when the request is over."""
        while not self._over:
            attempt = self.attempt
            if attempt is None:
                await self.reserved()
                continue
            await attempt.writable()
            if attempt is self.attempt:
                return

    def cancel(self, reason: str) -> None:
        """The caller does not want the answer any more. Harmless when it is over."""
        if not self._over:
            self._leave(RequestCancelledError(self.request.request_id), reason)

    close = cancel

    async def started(self) -> None:
        """Return when a replica has said that it took the request.

        *Errors*: what ended it before that.
        """
        while not self._started and not self._over:
            self._starting = asyncio.get_running_loop().create_future()
            await self._starting
        if self._error is not None:
            raise self._error

    # --- for the router -------------------------------------------------------------------------------------------

    async def reserved(self) -> None:
        """Return when the request holds a slot.

        *Errors*: what ended it before that.
        """
        while self.attempt is None and not self._over:
            if self._reservation is None:
                self._reservation = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._reservation)
        if self._error is not None:
            raise self._error

    def watch_deadline(self) -> None:
        deadline = self.request.deadline
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
            self._deadline_timer = None
        if deadline is not None:
            loop = asyncio.get_running_loop()
            self._deadline_timer = loop.call_later(max(0.0, deadline - time.monotonic()), self._deadline_passed)

    def expired(self) -> bool:
        return self.request.deadline is not None and self.request.deadline <= time.monotonic()

    def put_on(self, link: Link) -> None:
        """Reserve: from this line on the request counts at the replica."""
        stream = link.stream
        assert stream is not None
        self.link = link
        self.put_s = time.monotonic()
        left_ms = 0
        if self.request.deadline is not None:
            left_ms = max(1, int((self.request.deadline - self.put_s) * 1000))
        self.attempt = stream.open(self.opened, self.request.body, self.request.end, self, left_ms)
        for payload, end, kind, code, reason in self._sent or ():
            self.attempt.send(payload, end=end, kind=kind, code=code, reason=reason)
        if self.queue_timer is not None:
            self.waited_s += self.put_s - self.queued_s
            self._stop_queue_timer()
        self._resolve_reservation()

    @property
    def replayable(self) -> bool:
        return self._sent is not None or not self._sent_bytes

    @property
    def answer_began(self) -> bool:
        return self._answer_began

    @property
    def over(self) -> bool:
        return self._over

    def fail(self, error: Exception) -> None:
        """End it with an error that the reader gets."""
        if not self._over:
            self._leave(error, "the request failed")

    # --- RequestListener ------------------------------------------------------------------------------------------

    def on_started(self) -> None:
        self._started = True
        self._tell_started()
        self._forget_what_cannot_be_replayed()

    def on_part(self, part: pb.Head | Data) -> None:
        if not self._answer_began:
            self._answer_began = True
            if self.reserved_s:
                self._router.answer_began(self)
            if self.link is not None and not (isinstance(part, pb.Head) and part.status >= 500):
                now = time.monotonic()
                self.link.latency.answered(now - self.put_s, now)
            if self._router.tallies is not None:
                self._router.tallies.answer_began(self, part)
            if self._router.rotation.rule is not None and self.link is not None and isinstance(part, pb.Head):
                self._router.rotation.answered(self.link, part.status)
        if self._offer is not None and self._taken(self._offer, part):
            return
        self._parts.append(part)
        self._wake_reader()

    def _taken(self, take: Callable[[bytes, int], bool], part: pb.Head | Data) -> bool:
        """Whether a message went past the reader, who waits for it and has left nothing unread."""
        waits = not self._parts and self._reader is not None and not self._reader.done()
        amid = self._joiner is not None and self._joiner.amid
        if not waits or amid or self.attempt is None or not whole_message(part) or not take(part.payload, part.kind):
            return False
        self.attempt.consumed(part.payload)
        return True

    def on_ended(self) -> None:
        self._finish()

    def on_rejected(self) -> None:
        self.attempt = None
        self._router.requeue(self)

    def on_error(self, error: pb.Error) -> None:
        self._error = error_of(error, self.replica_id)
        if isinstance(self._error, errors.UserCodeError | errors.ReplicaDiedError):
            self._tell_failed()
            if self._router.rotation.rule is not None:
                self._count_exception(self._error)
        self._finish()

    def on_lost(self, outcome: Outcome, reason: str) -> None:
        self.attempt = None
        self._tell_failed()
        self._router.stream_broke(self, outcome)

    def _count_exception(self, error: Exception) -> None:
        """Over HTTP it becomes an answer of 500."""
        over_http = bool(self.request.encoded) or self.request.http is not None
        if over_http and self.link is not None and isinstance(error, errors.UserCodeError):
            self._router.rotation.answered(self.link, error.http_status)

    def _tell_failed(self) -> None:
        if self.put_s and self._router.tallies is not None:
            self._router.tallies.failed(self)

    # --- the end --------------------------------------------------------------------------------------------------

    def _deadline_passed(self) -> None:
        self._deadline_timer = None
        if not self._over and self.attempt is not None:
            self._tell_failed()
        self.fail(errors.DeadlineExceededError(f"the deadline of request {self.request.request_id} passed"))

    def _leave(self, error: Exception, reason: str) -> None:
        self._error = error
        self._parts.clear()
        attempt, self.attempt = self.attempt, None
        self._finish()
        if attempt is not None:
            if self.link is not None and not self._answer_began:
                now = time.monotonic()
                self.link.latency.given_up(now - self.put_s, now)
            attempt.cancel(reason)
        else:
            self._router.withdrawn(self)

    def _finish(self) -> None:
        self._over = True
        if self._parts and self.attempt is not None:
            self._unread = self.attempt.inflow  # what is still to be read is held until it is, or until we are dropped
        self.attempt = None  # it knows us as its listener: a cycle, one per request, for the collector to find
        self._stop_queue_timer()
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
        self._resolve_reservation()
        self._tell_started()
        self._wake_reader()

    def _wake_reader(self) -> None:
        call, self._on_answer = self._on_answer, None
        if call is not None:
            call()
        elif self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _tell_started(self) -> None:
        if self._starting is not None and not self._starting.done():
            self._starting.set_result(None)

    def _resolve_reservation(self) -> None:
        waiting, self._reservation = self._reservation, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def _stop_queue_timer(self) -> None:
        if self.queue_timer is not None:
            self.queue_timer.cancel()
            self.queue_timer = None

    def _forget_what_cannot_be_replayed(self) -> None:
        if self._started and self._sent_bytes > REPLAY_BYTES:
            self._sent = None

    def _join(self, part: Data) -> Data | None:
        if self._joiner is None:
            self._joiner = MessageJoiner()
        return self._joiner.add(part)

    def __repr__(self) -> str:
        where = f" at {self.replica_id}" if self.link is not None else ""
        return f"<Exchange {self.request.request_id} [{self.state.value}]{where}>"
