"""The caller's end of one stream: requests in, parts out. No I/O: frames come by `receive`, leave from `outbox`.

What a router must know of a replica is here: how many requests are reserved, how many slots there are, whether the
replica owes us one. After a Rejected nothing is opened but against grants, until the replica owes nothing more.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Protocol

from google.protobuf.message import DecodeError

from serve_rt.credentials import ClusterToken
from serve_rt.model.transitions import move
from serve_rt.pb import stream_pb2 as pb
from serve_rt.transport.client_request import ClientRequest, RequestListener
from serve_rt.transport.data import Data, read_data, reader
from serve_rt.transport.flow import PROCESS, Budget, PeerFault
from serve_rt.transport.limits import INLINE_BODY_BYTES, LARGE_PART_BYTES, PROTOCOL, SILENCE_S, WINDOW_BYTES
from serve_rt.transport.outbox import Outbox
from serve_rt.transport.parts import client_data, encode_open, encode_windows, goodbye_part, open_part, ping_part
from serve_rt.transport.server_stream import ReplicaIdentity
from serve_rt.transport.states import STREAM_TRANSITIONS, StreamState

_read_large = reader(pb.ServerFrame, pb.ServerPart)


class StreamOwner(Protocol):
    """Who opened the stream (serve_rt.routing.link)."""

    def on_ready(self) -> None:
        """The replica is the one we mean; requests may be opened."""
        ...

    def on_room(self) -> None:
        """A slot may have become free: a request ended, a grant came, the capacity changed, the replica answers."""
        ...

    def on_silent(self) -> None:
        """Asked, and not answered for a while."""
        ...

    def on_lost(self, reason: str) -> None:
        """The stream is over; its requests have been told."""
        ...


class ClientStream:
    def __init__(self, identity: ReplicaIdentity, token: ClusterToken, client: str, owner: StreamOwner) -> None:
        self.identity = identity
        self.outbox = Outbox(client_data)
        self.state = StreamState.GREETING
        self.capacity = 0
        self.load_of_others = 0
        """Slots that other callers held when the replica last said so."""
        self.grants = 0
        self.owed = 0
        """Slots the replica will still grant us."""
        self.budget = Budget(PROCESS)
        self.body_window = WINDOW_BYTES
        """What the replica lets bodies begin with."""
        self.models: frozenset[str] = frozenset()
        """Multiplexed models that the replica holds."""
        self.unresponsive = False
        """Asked and not answered for a while: nothing new is opened until a part arrives."""
        self.requests: dict[int, ClientRequest] = {}
        self.opens_sent = 0
        self.heads_received = 0
        self.data_received = 0
        self.data_sent = 0
        self.rejected_received = 0
        self._owner = owner
        self._next_id = 1
        self._drained_above: int | None = None
        self._said_goodbye = False
        self._heard_s = 0.0
        self._pinged_s: float | None = None
        hello = pb.ClientHello(
            protocol=PROTOCOL,
            cluster=identity.cluster,
            token=token.secret,
            replica_id=identity.replica_id,
            incarnation=identity.incarnation,
            client=client,
        )
        self.outbox.put(pb.ClientFrame(hello=hello).SerializeToString())

    @property
    def closed(self) -> bool:
        return self.state is StreamState.CLOSED

    @property
    def reserved(self) -> int:
        return len(self.requests)

    def has_room(self) -> bool:
        """Whether a request may be opened now, as far as we know."""
        if self.state is not StreamState.READY or self.unresponsive:
            return False
        if self.grants:
            return True
        return not self.owed and len(self.requests) < self.capacity

    def has_slot(self) -> bool:
        """`has_room`, of a replica that may be silent."""
        return self.state is StreamState.READY and (
            self.grants > 0 or (not self.owed and len(self.requests) < self.capacity)
        )

    # --- upstream -------------------------------------------------------------------------------------------------

    def open(
        self, opened: bytes, body: bytes, end: bool, listener: RequestListener, time_left_ms: int = 0
    ) -> ClientRequest:
        """Put one request on its way; `opened` is an encoded Open without id, body and time. It is reserved when this
        returns."""
        if self.grants:
            self.grants -= 1
        request_id = self._next_id
        self._next_id = request_id + 1
        request = self.requests[request_id] = ClientRequest(self, request_id, listener)
        self.budget.began()
        inline = len(body) <= INLINE_BODY_BYTES
        window = self.budget.window()
        if window != WINDOW_BYTES or self.body_window != WINDOW_BYTES:  # somebody is short of memory
            opened += encode_windows(window, self.body_window)
            request.begin_with(window, self.body_window)
        part = encode_open(request_id, time_left_ms, opened, body if inline else b"", end and inline)
        request.put_at(self.outbox.put(open_part(part)))
        self.opens_sent += 1
        if not inline:
            request.send(body, end=end)
        if len(self.requests) == 1:
            self._heard_s = time.monotonic()  # silence is counted from the first request on
        return request

    def goodbye(self) -> None:
        """Nothing more will come; only for a stream without requests."""
        if not self._said_goodbye:
            self._said_goodbye = True
            self.outbox.put(goodbye_part(b""))
            self.outbox.close()

    def tick(self, now: float) -> None:
        """Called about twice a second: requests in flight and no part for SILENCE_S → Ping; again → unresponsive."""
        if not self.requests or self.state not in (StreamState.READY, StreamState.DRAINING):
            self._pinged_s = None
            return
        if self._pinged_s is None:
            if now - self._heard_s >= SILENCE_S:
                self._pinged_s = now
                self.outbox.put(ping_part(pb.Ping(nonce=int(now * 1000)).SerializeToString()))
        elif now - self._pinged_s >= SILENCE_S and not self.unresponsive:
            self.unresponsive = True
            self._owner.on_silent()

    def doubt(self) -> None:
        """Another stream to the same machine fell silent and broke: open nothing here until this one answers a Ping."""
        if self.state is StreamState.READY and not self.unresponsive:
            self.unresponsive = True
            self.outbox.put(ping_part(pb.Ping(nonce=int(time.monotonic() * 1000)).SerializeToString()))

    @property
    def silent_s(self) -> float:
        """Since the last frame; on an idle stream that says little."""
        return time.monotonic() - self._heard_s

    # --- frames in ------------------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Act on one frame.

        *Errors*: PeerFault when the replica breaks the rules; the caller cuts the stream.
        """
        parts = self._read(data)
        if parts is None:
            return
        self._heard_s = time.monotonic()
        self._pinged_s = None
        room = self.unresponsive
        self.unresponsive = False
        requests = self.requests
        before = len(requests)
        for part in parts:
            if type(part) is Data:
                self._on_data(part)
                continue
            kind = part.WhichOneof("part")
            if kind == "head":
                self.heads_received += 1
                if (request := requests.get(part.head.id)) is not None:
                    request.on_head(part.head)
            elif kind == "data":
                self._on_data(read_data(part.data))
            else:
                room = self._on_other(kind, part) or room
        if room or len(requests) < before:
            self._owner.on_room()

    def _read(self, data: bytes) -> Sequence[Any] | None:  # Any: Data or ServerPart
        if len(data) >= LARGE_PART_BYTES and self.state is not StreamState.GREETING:
            parts = _read_large(data)
            if parts is not None:
                return parts
        try:
            frame = pb.ServerFrame.FromString(data)
        except DecodeError as error:
            raise PeerFault(f"a frame of {len(data)} bytes that is no ServerFrame") from error
        if self.state is StreamState.GREETING:
            self._on_greeting(frame)
            if self.closed or not frame.parts:  # what the replica had to say at once may ride along
                return None
        return frame.parts

    def _on_data(self, part: Data) -> None:
        self.data_received += 1
        if (request := self.requests.get(part.id)) is not None:
            request.on_data(part)

    def _on_other(self, kind: str | None, part: pb.ServerPart) -> bool:
        """A part that is neither Head nor Data; whether it may have made room."""
        requests = self.requests
        if kind == "accepted":
            if (request := requests.get(part.accepted.id)) is not None:
                request.on_accepted()
        elif kind == "credit":
            if (request := requests.get(part.credit.id)) is not None:
                request.on_credit(part.credit.bytes)
        elif kind == "error":
            if (request := requests.get(part.error.id)) is not None:
                request.on_error(part.error)
                return True
        elif kind == "ended":
            if (request := requests.get(part.ended.id)) is not None:
                request.on_ended()
                return True
        elif kind == "rejected":
            self._on_rejected(part.rejected.id)
            return True
        elif kind == "load":
            self._on_load(part.load)
            return True
        elif kind == "window":
            self.body_window = min(part.window.bytes, WINDOW_BYTES)
        elif kind == "models":
            self.models = frozenset(part.models.ids)
        elif kind == "drain":
            self._on_drain(part.drain.last_id)
            return True
        return False

    def _on_greeting(self, frame: pb.ServerFrame) -> None:
        if frame.HasField("refused"):
            self.lost(f"refused: {frame.refused.reason}")
            return
        hello = frame.hello
        if not frame.HasField("hello") or hello.protocol not in (PROTOCOL, PROTOCOL - 1):
            raise PeerFault(f"no Hello of protocol {PROTOCOL} from {self.identity.replica_id}")
        if (hello.replica_id, hello.incarnation) != (self.identity.replica_id, self.identity.incarnation):
            raise PeerFault(f"reached {hello.replica_id} incarnation {hello.incarnation}, not {self.identity}")
        self.capacity = hello.capacity
        self.models = frozenset(hello.models)
        self._move(StreamState.DRAINING if hello.draining else StreamState.READY)
        self._heard_s = time.monotonic()
        self._owner.on_ready()

    def _on_rejected(self, request_id: int) -> None:
        self.rejected_received += 1
        if self._drained_above is None:
            self.owed += 1
        request = self.requests.get(request_id)
        if request is not None:
            request.on_rejected()

    def _on_load(self, load: pb.Load) -> None:
        self.capacity = load.capacity
        self.load_of_others = load.queue
        self.grants += load.grant
        self.owed = load.owed
        if not load.grant and not load.owed:
            self.grants = 0  # what was granted and not used is taken back

    def _on_drain(self, last_id: int) -> None:
        self._drained_above = last_id
        self._move(StreamState.DRAINING)

    def drained_below(self, request_id: int) -> bool:
        """The replica said that it had not seen this request when it began to drain."""
        return self._drained_above is not None and request_id > self._drained_above

    # --- the end --------------------------------------------------------------------------------------------------

    def drop(self, request: ClientRequest) -> None:
        """A request whose Open was taken back: for the replica it never was."""
        request.finish()
        self._owner.on_room()

    def forget(self, request: ClientRequest) -> None:
        if self.requests.pop(request.id, None) is not None:
            self.budget.ended()

    def lost(self, reason: str) -> None:
        """The stream broke or was cut: every request on it hears what is known about its work."""
        if self.closed:
            return
        self._move(StreamState.CLOSED)
        self.outbox.close()
        for request in tuple(self.requests.values()):
            request.on_lost(reason)
        self._owner.on_lost(reason)

    def _move(self, new: StreamState) -> None:
        self.state = move(STREAM_TRANSITIONS, self.state, new, f"stream to {self.identity.replica_id}")

    def __repr__(self) -> str:
        replica = f"{self.identity.replica_id}/{self.identity.incarnation}"
        return f"<ClientStream to {replica} [{self.state.value} | {self.reserved}/{self.capacity} reserved]>"
