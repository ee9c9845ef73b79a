"""One request on its way through the replica.

A `Call` has two sides. The main loop owns the transport's `ServerRequest`: only it sends parts, hears of a
cancellation and keeps the deadline. User code runs elsewhere (the user loop, or a thread of the pool) and answers
through the methods named `send_…`, `reply…` and `leave`, which may be called from any thread and cross over in batches.

Whatever happens, `leave` reaches the transport exactly once: when user code has really ended. Until then the request
holds its slot, also after its caller has gone.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from serve_rt.aio import TaskOwner
from serve_rt.context import RequestContext
from serve_rt.errors import DeadlineExceededError, Outcome
from serve_rt.handle.children import cancel_children
from serve_rt.observe.request_counts import RequestCounts
from serve_rt.pb import stream_pb2 as pb
from serve_rt.replica.access_log import AccessLog
from serve_rt.replica.crossing import Crossing
from serve_rt.transport.data import Data
from serve_rt.transport.flow import PeerFault
from serve_rt.transport.server import ServerRequest

log = logging.getLogger(__name__)

ROOM_CHECK_BYTES = 64 << 10
"""A streaming answer waits for the reader's credit each time it has sent this much."""
PART_OVERHEAD_BYTES = 64


@dataclass(frozen=True, slots=True)
class Roads:
    """What every call of this process shares."""

    to_main: Crossing
    to_user: Crossing
    tasks: TaskOwner
    """Of the main loop."""
    access_log: AccessLog
    counts: RequestCounts = field(default_factory=RequestCounts)
    """By route and status."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong in user code, as it travels: see `Error` in stream.proto."""

    kind: str
    message: str
    pickled: bytes = b""
    traceback: str = ""


class Call:
    __slots__ = (
        "_access",
        "_began_s",
        "_fetch",
        "_left",
        "_on_left",
        "_over",
        "_reading",
        "_resume",
        "_roads",
        "_room",
        "_status",
        "_timer",
        "_unchecked_bytes",
        "_unclaimed",
        "began",
        "body",
        "body_complete",
        "context",
        "disconnected",
        "is_http",
        "open",
        "request",
        "task",
    )

    def __init__(
        self,
        request: ServerRequest,
        context: RequestContext,
        roads: Roads,
        access: tuple[str, str],
        on_left: Callable[[Call], None],
    ) -> None:
        self.request = request
        self.open = request.open
        self.context = context
        self.is_http = self.open.HasField("http")
        self.body: bytes | bytearray = self.open.body
        self.body_complete = self.open.end
        self.began = False
        """User loop: the task has taken its first step, so a cancellation reaches its `try`."""
        self.task: asyncio.Task[None] | None = None
        self.disconnected: asyncio.Future[None] | None = None
        """User loop: somebody waits for the caller to go."""
        self._roads = roads
        self._access = access
        self._on_left = on_left
        self._began_s = time.monotonic()
        self._over = False
        self._left = False
        self._status: int | str = "-"
        self._unchecked_bytes = 0
        self._room: asyncio.Task[None] | None = None
        self._resume: Callable[[], object] | None = None
        self._fetch: asyncio.Task[None] | None = None
        self._reading: asyncio.Future[Data | None] | None = None
        """User loop: who waits for a part."""
        self._unclaimed: deque[Data] | None = None
        """User loop: parts whose reader had given up waiting when they came; the next one gets them."""
        self._timer: asyncio.TimerHandle | None = None
        request.on_cancel = self._on_cancel
        if request.deadline is not None:
            self._timer = asyncio.get_running_loop().call_later(
                max(0.0, request.deadline - self._began_s), self._on_deadline
            )

    # --- user side: any thread ------------------------------------------------------------------------------------

    @property
    def cancelled(self) -> bool:
        return self.context.cancelled.is_set()

    def reply(self, status: int, headers: Sequence[bytes], body: bytes) -> None:
        """A whole HTTP answer in one part; user code has ended."""
        self._roads.to_main.post(self._on_reply, status, headers, body)

    def reply_value(self, pickled: bytes) -> None:
        """The result of a method call; user code has ended."""
        self._roads.to_main.post(self._on_reply_value, pickled)

    def send_head(self, status: int, headers: Sequence[bytes], subprotocol: str = "") -> None:
        self._roads.to_main.post(self._on_head, status, headers, subprotocol)

    def send_whole(self, status: int, headers: Sequence[bytes], body: bytes) -> None:
        """As `reply`, while user code goes on (a background task of a response)."""
        self._roads.to_main.post(self._on_whole, status, headers, body)

    def send_end(self) -> None:
        self._roads.to_main.post(self._on_end, b"", pb.DATA_KIND_BODY, 0, "")

    def send_last(self, payload: bytes, kind: pb.DataKind, code: int = 0, reason: str = "") -> None:
        self._roads.to_main.post(self._on_end, payload, kind, code, reason)

    async def send_data(self, payload: bytes, kind: pb.DataKind = pb.DATA_KIND_BODY) -> None:
        """From the user loop; waits while the reader is behind."""
        if not self._check_is_due(len(payload)):
            self._roads.to_main.post(self._on_data, payload, kind, None)
            return
        room = asyncio.get_running_loop().create_future()
        to_user = self._roads.to_user
        self._roads.to_main.post(self._on_data, payload, kind, lambda: to_user.post(_resolve, room))
        await room

    def send_data_blocking(self, payload: bytes, kind: pb.DataKind = pb.DATA_KIND_BODY) -> None:
        """From a thread of the pool; blocks it while the reader is behind."""
        if not self._check_is_due(len(payload)):
            self._roads.to_main.post(self._on_data, payload, kind, None)
            return
        room = threading.Event()
        self._roads.to_main.post(self._on_data, payload, kind, room.set)
        room.wait()  # bounded by the request: a cancellation, its deadline and a broken stream all set it

    def _check_is_due(self, size: int) -> bool:
        self._unchecked_bytes += size + PART_OVERHEAD_BYTES
        if self._unchecked_bytes < ROOM_CHECK_BYTES:
            return False
        self._unchecked_bytes = 0
        return True

    async def receive_part(self) -> Data | None:
        """From the user loop: the next part of the request's body or WebSocket; None when the caller ended."""
        if self._unclaimed:
            return self._unclaimed.popleft()
        reading: asyncio.Future[Data | None] = asyncio.get_running_loop().create_future()
        self._reading = reading
        self._roads.to_main.post(self._on_wanted)
        try:
            return await reading
        except asyncio.CancelledError:
            if reading.done() and not reading.cancelled():  # it came in the same turn of the loop
                self._arrived(reading.result())
            raise

    def fail(self, failure: Failure) -> None:
        """User code has ended with an error."""
        self._roads.to_main.post(self._on_failure, failure)

    def leave(self) -> None:
        """User code has ended; whatever it had to say has been sent."""
        self._roads.to_main.post(self._on_leave)

    # --- main loop ------------------------------------------------------------------------------------------------

    def _on_whole(self, status: int, headers: Sequence[bytes], body: bytes) -> None:
        if not self._over:
            self._over = True
            self._status = status
            self.request.head(status, headers, body=body, end=True)

    def _on_reply(self, status: int, headers: Sequence[bytes], body: bytes) -> None:
        self._on_whole(status, headers, body)
        self._on_leave()

    def _on_reply_value(self, pickled: bytes) -> None:
        if not self._over:
            self._over = True
            self._status = "OK"
            self.request.data(pickled, end=True)
        self._on_leave()

    def _on_head(self, status: int, headers: Sequence[bytes], subprotocol: str) -> None:
        if not self._over:
            self._status = status
            self.request.head(status, headers, subprotocol=subprotocol)

    def _on_data(self, payload: bytes, kind: pb.DataKind, resume: Callable[[], object] | None) -> None:
        if not self._over:
            self.request.data(payload, kind=kind)
        if resume is None:
            return
        if self._over:
            resume()
            return
        self._resume = resume
        self._room = self._roads.tasks.start(self._wait_for_room(), name="wait for the reader")

    async def _wait_for_room(self) -> None:
        await self.request.writable()
        self._let_go()

    def _let_go(self) -> None:
        """Whoever waits for room goes on, for whatever reason."""
        resume, self._resume = self._resume, None
        if resume is not None:
            resume()

    def _on_end(self, payload: bytes, kind: pb.DataKind, code: int, reason: str) -> None:
        if not self._over:
            self._over = True
            if self._status == "-":
                self._status = "OK"
            self.request.data(payload, end=True, kind=kind, code=code, reason=reason)

    def _on_failure(self, failure: Failure) -> None:
        if not self._over:
            self._fail_now(Outcome.STARTED, failure)
            self._status = 500 if self.is_http else "ERROR"
        self._on_leave()

    def _fail_now(self, outcome: Outcome, failure: Failure) -> None:
        self._over = True
        self.request.fail(outcome, failure.kind, failure.message, pickled=failure.pickled, traceback=failure.traceback)

    def _on_wanted(self) -> None:
        if self._left or self.cancelled:
            self._give(None)
        else:
            self.request.on_arrival = self._give_wanted
            self._give_wanted()

    def _give_wanted(self) -> None:
        """Send the next part over as soon as it is here. No task: each message of a WebSocket comes this way."""
        try:
            part = self.request.take()
        except PeerFault as fault:  # too large a message: this request's fault, not its stream's
            log.warning("a part was refused: %s", fault, extra={"action": "part_refused"})
            self._give(None)
            return
        if part is not None or self.request.exhausted:
            self._give(part)

    def _give(self, part: Data | None) -> None:
        self.request.on_arrival = None
        self._roads.to_user.post(self._arrived, part)

    def rename(self, what: pb.MethodCall) -> None:
        """A reserved slot is used: this is what for."""
        self.open.call.CopyFrom(what)
        self._access = ("CALL", what.method or "__call__")

    def own_fetch(self, task: asyncio.Task[None]) -> None:
        """`task` reads the request's body for user code that has not begun: it ends with the call."""
        self._fetch = task

    def _on_cancel(self, _reason: str) -> None:
        """The transport: the caller has gone, or its stream broke."""
        if self._left:
            return
        if not self._over:
            self._over = True
            self._status = 499 if self.is_http else "CANCELLED"
        self._stop_user_code()

    def _on_deadline(self) -> None:
        if self._left or self.cancelled:
            return
        if not self._over:
            message = f"the deadline passed after {time.monotonic() - self._began_s:.3f} s; its work was cancelled"
            self._fail_now(Outcome.STARTED, Failure(DeadlineExceededError.__name__, message))
            self._status = 408 if self.is_http else "DEADLINE"
        self._stop_user_code()

    def stop(self) -> None:
        """The replica drains and its time is up: what still runs is cancelled."""
        if self._left or self.cancelled:
            return
        if not self._over:
            message = "the replica is shutting down and its graceful_shutdown_timeout_s has passed"
            self._fail_now(Outcome.STARTED, Failure("ReplicaDiedError", message))
            self._status = 502 if self.is_http else "STOPPED"
        self._stop_user_code()

    def _stop_user_code(self) -> None:
        self.context.cancelled.set()
        cancel_children(self.context)  # also calls that nobody awaits, or that a sync handler waits for in its thread
        if self._room is not None:
            self._room.cancel()
        if self._fetch is not None:
            self._fetch.cancel()
        if self.request.on_arrival is not None:
            self._give(None)
        self._let_go()
        self._roads.to_user.post(self._cancel_on_user_loop)

    def _on_leave(self) -> None:
        if self._left:
            return
        self._left = True
        if self._timer is not None:
            self._timer.cancel()
        if self._fetch is not None:
            self._fetch.cancel()
        if self._room is not None:
            self._room.cancel()
        if not self._over:
            self._fail_now(Outcome.STARTED, Failure("UserError", "the handler ended without an answer"))
        self.request.on_arrival = self.request.on_cancel = None
        self.request.finished()
        self._on_left(self)
        method, route = self._access
        took_s = time.monotonic() - self._began_s
        self._roads.counts.add((route, str(self._status)), took_s)
        self._roads.access_log.add(method, route, self._status, took_s, self.context.request_id)

    # --- user loop ------------------------------------------------------------------------------------------------

    def _arrived(self, part: Data | None) -> None:
        if self._reading is not None and not self._reading.done():
            self._reading.set_result(part)
        elif part is not None:
            self._unclaimed = self._unclaimed or deque()
            self._unclaimed.append(part)

    def _cancel_on_user_loop(self) -> None:
        if self.disconnected is not None and not self.disconnected.done():
            self.disconnected.set_result(None)
        # A task cancelled before its first step would end without running its `finally`: it looks at `cancelled`
        # itself when it begins.
        if self.task is not None and self.began:
            self.task.cancel()

    def __repr__(self) -> str:
        state = "left" if self._left else "cancelled" if self.cancelled else "answered" if self._over else "running"
        return f"<Call {' '.join(self._access)} [{state}] {self.context.request_id}>"


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
