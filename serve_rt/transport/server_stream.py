"""The replica's end of one stream: parts in, requests out. No I/O: frames come by `receive`, leave from `outbox`.

Every Open gets exactly one last part: Data{end}, Head{end}, Error, Rejected, or Ended after a Cancel once user code has
really left. Accepted waits a moment for a Head to ride in its place.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from serve_rt.pb import stream_pb2 as pb
from serve_rt.transport.data import Data, read_data, reader
from serve_rt.transport.flow import PROCESS, Budget, PeerFault
from serve_rt.transport.limits import (
    ACCEPTED_DELAY_S,
    HELLO_BYTES,
    IN_FLIGHT,
    LARGE_PART_BYTES,
    LOAD_INTERVAL_S,
    PROTOCOL,
    WINDOW_BYTES,
)
from serve_rt.transport.outbox import Outbox
from serve_rt.transport.parts import (
    accepted_part,
    drain_part,
    load_part,
    models_part,
    pong_part,
    rejected_part,
    server_data,
    window_part,
)
from serve_rt.transport.server_request import ServerRequest

if TYPE_CHECKING:
    from serve_rt.transport.server import StreamService

_read_large = reader(pb.ClientFrame, pb.ClientPart)


@dataclass(frozen=True, slots=True)
class ReplicaIdentity:
    """Whom a caller must mean: ports are reused, and a stale route must not reach a stranger."""

    cluster: str
    replica_id: str
    incarnation: int


class ServerStream:
    def __init__(self, service: StreamService) -> None:
        self.service = service
        self.peer = "?"
        self.greeted = False
        self.closed = False
        self.outbox = Outbox(server_data)
        self.budget = Budget(PROCESS)
        self._window_told = WINDOW_BYTES
        self.requests: dict[int, ServerRequest] = {}
        self.opens_received = 0
        self.heads_sent = 0
        self.data_sent = 0
        self.data_received = 0
        self.rejected_sent = 0
        self._last_id = 0
        self._refuse_above: int | None = None
        self._acknowledging: asyncio.TimerHandle | None = None
        self._load_sent_s = 0.0
        self._load_sent = 0
        self._drain_sent = False

    # --- frames in ------------------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Act on one frame.

        *Errors*: PeerFault when the peer breaks the rules; the caller cuts the stream.
        """
        if not self.greeted:
            self._greet(data)
            return
        for part in self._read(data):
            if type(part) is Data:
                self._on_data(part)
                continue
            kind = part.WhichOneof("part")
            if kind == "open":
                self._on_open(part.open)
            elif kind == "data":
                self._on_data(read_data(part.data))
            elif kind == "credit":
                if (request := self.requests.get(part.credit.id)) is not None:
                    request.on_credit(part.credit.bytes)
            elif kind == "cancel":
                if (request := self.requests.get(part.cancel.id)) is not None:
                    request.cancel(part.cancel.reason or "cancelled by the caller")
            elif kind == "ping":
                self.outbox.put(pong_part(pb.Pong(nonce=part.ping.nonce).SerializeToString()))
            elif kind == "goodbye":
                self.lost("the caller said goodbye")
                return
        if self.outbox.overfull:
            raise PeerFault("it sends and does not read: too much waits for it")
        if self.budget.window() != self._window_told:
            self._tell_window()
        if len(self.service.streams) > 1:
            self._tell_load()

    def _read(self, data: bytes) -> Sequence[Any]:  # Any: Data or ClientPart
        if len(data) >= LARGE_PART_BYTES and (parts := _read_large(data)) is not None:
            return parts
        try:
            return pb.ClientFrame.FromString(data).parts
        except DecodeError as error:
            raise PeerFault(f"a frame of {len(data)} bytes that is no ClientFrame") from error

    def _greet(self, data: bytes) -> None:
        reason = "the first frame is no Hello" if len(data) > HELLO_BYTES else self._judge(data)
        if reason:
            self.refuse(reason)
            return
        self.greeted = True
        service = self.service
        hello = pb.ServerHello(
            protocol=PROTOCOL,
            replica_id=service.identity.replica_id,
            incarnation=service.identity.incarnation,
            capacity=service.slots.capacity,
            draining=service.draining,
            models=service.models,
        )
        self.outbox.put(pb.ServerFrame(hello=hello).SerializeToString())
        service.greeted(self)

    def _judge(self, data: bytes) -> str:
        """Why the peer is refused, "" when it is welcome. The token comes first: without it nothing is said."""
        try:
            hello = pb.ClientFrame.FromString(data).hello
        except DecodeError:
            return "the first frame is no Hello"
        mine = self.service.identity
        if not self.service.token.matches(hello.token):
            return "wrong or missing cluster token"
        if hello.protocol not in (PROTOCOL, PROTOCOL - 1):
            return f"protocol {hello.protocol} is not spoken here: this replica speaks {PROTOCOL} and {PROTOCOL - 1}"
        if hello.cluster != mine.cluster:
            return f"this replica belongs to the cluster {mine.cluster!r}, not to {hello.cluster!r}"
        if (hello.replica_id, hello.incarnation) != (mine.replica_id, mine.incarnation):
            return (
                f"this is {mine.replica_id} incarnation {mine.incarnation}, "
                f"not {hello.replica_id} incarnation {hello.incarnation}"
            )
        self.peer = hello.client[:200] or "?"
        return ""

    def refuse(self, reason: str) -> None:
        self.outbox.put(pb.ServerFrame(refused=pb.Refused(reason=reason)).SerializeToString())
        self.lost(reason)

    def _on_open(self, opened: pb.Open) -> None:
        if opened.id <= self._last_id:
            raise PeerFault(f"request id {opened.id} was used before on this stream (last: {self._last_id})")
        self._last_id = opened.id
        self.opens_received += 1
        service = self.service
        above_drain = self._refuse_above is not None and opened.id > self._refuse_above
        crowded = len(self.requests) >= IN_FLIGHT
        if crowded and not above_drain:
            service.slots.owe(self)  # the caller counts on a grant after every Rejected: without one it waits for ever
        if above_drain or crowded or not self._take_slot(opened):
            self.rejected_sent += 1
            rejected = pb.Rejected(id=opened.id, queue=service.slots.ongoing)
            self.outbox.put(rejected_part(rejected.SerializeToString()))
            return
        left_ms = opened.time_left_ms
        deadline = time.monotonic() + left_ms / 1000 if left_ms else None
        request = self.requests[opened.id] = ServerRequest(self, opened, deadline)
        if self._acknowledging is None:
            loop = asyncio.get_running_loop()
            self._acknowledging = loop.call_later(ACCEPTED_DELAY_S, self._acknowledge)
        service.start(request)

    def _take_slot(self, opened: pb.Open) -> bool:
        slots = self.service.slots
        return slots.take(self) or (opened.call.past_limit and slots.take_past_limit(self))

    def _on_data(self, part: Data) -> None:
        self.data_received += 1
        request = self.requests.get(part.id)
        if request is not None:
            request.on_data(part)
        elif part.id > self._last_id:
            raise PeerFault(f"Data for request {part.id}, which was never opened")

    # --- parts out ------------------------------------------------------------------------------------------------

    def send_head(self, part: bytes) -> None:
        self.heads_sent += 1
        self.outbox.put(part)

    def _acknowledge(self) -> None:
        self._acknowledging = None
        for request in self.requests.values():
            if not request.accepted:
                request.accepted = True
                self.outbox.put(accepted_part(pb.Accepted(id=request.open.id).SerializeToString()))

    def send_load(self, *, grant: int, owed: int) -> None:
        """Of the slots: a grant, or the word that there will be none."""
        self._put_load(grant, owed)

    def announce_capacity(self) -> None:
        self._put_load(0, self.service.slots.owed_to(self))

    def _tell_load(self) -> None:
        """What other callers hold, now and then, so that this one can choose."""
        now = time.monotonic()
        ongoing = self.service.slots.ongoing
        if now - self._load_sent_s >= LOAD_INTERVAL_S and ongoing - len(self.requests) != self._load_sent:
            self._put_load(0, self.service.slots.owed_to(self))

    def _put_load(self, grant: int, owed: int) -> None:
        slots = self.service.slots
        self._load_sent_s = time.monotonic()
        self._load_sent = slots.ongoing - len(self.requests)
        load = pb.Load(
            queue=max(0, self._load_sent), grant=grant, capacity=slots.capacity, ongoing=slots.ongoing, owed=owed
        )
        self.outbox.put(load_part(load.SerializeToString()))

    def _tell_window(self) -> None:
        self._window_told = self.budget.window()
        self.outbox.put(window_part(pb.Window(bytes=self._window_told).SerializeToString()))

    def tell_models(self) -> None:
        """Which models are here: callers that want one of them come here first."""
        self.outbox.put(models_part(pb.Models(ids=self.service.models).SerializeToString()))

    def drain(self) -> None:
        """What was opened up to now finishes; what comes later is rejected."""
        if not self._drain_sent and self.greeted:
            self._drain_sent = True
            self._refuse_above = self._last_id
            self.outbox.put(drain_part(pb.Drain(last_id=self._last_id).SerializeToString()))

    # --- the end --------------------------------------------------------------------------------------------------

    def forget(self, request: ServerRequest) -> None:
        self.requests.pop(request.open.id, None)

    def lost(self, reason: str) -> None:
        """The stream broke or is over: its requests are cancelled, their slots free themselves as user code leaves."""
        if self.closed:
            return
        self.closed = True
        if self._acknowledging is not None:
            self._acknowledging.cancel()
        for request in tuple(self.requests.values()):
            request.cancel(reason)
        self.outbox.close()
        self.service.stream_lost(self)

    def __repr__(self) -> str:
        return f"<ServerStream from {self.peer} [{len(self.requests)} requests{', closed' if self.closed else ''}]>"
