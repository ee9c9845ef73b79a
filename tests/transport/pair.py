"""A caller's and a replica's end tied together without a network: frames move when a test says so."""

from __future__ import annotations

from collections.abc import Callable

from serve_rt.credentials import ClusterToken
from serve_rt.errors import Outcome
from serve_rt.pb import stream_pb2 as pb
from serve_rt.transport.client import ClientStream, ReplicaIdentity
from serve_rt.transport.data import Data
from serve_rt.transport.server import ServerRequest, StreamService
from serve_rt.transport.server_stream import ServerStream

IDENTITY = ReplicaIdentity("test", "app#D#aaaaaa", 1)
TOKEN = ClusterToken(b"t" * 32)


class Holding:
    """A handler that keeps requests until the test answers them."""

    def __init__(self) -> None:
        self.running: list[ServerRequest] = []
        self.started = 0
        self.cancelled: list[str] = []

    def start(self, request: ServerRequest) -> None:
        self.started += 1
        self.running.append(request)
        request.on_cancel = self.cancelled.append


class Answer:
    """A listener that remembers what happened, and that it ended once."""

    def __init__(self) -> None:
        self.parts: list[pb.Head | Data] = []
        self.ends: list[str] = []
        self.started = False
        self.outcome: Outcome | None = None

    def on_started(self) -> None:
        self.started = True

    def on_part(self, part: pb.Head | Data) -> None:
        assert not self.ends, "a part after the end"
        self.parts.append(part)

    def on_rejected(self) -> None:
        self.ends.append("rejected")

    def on_ended(self) -> None:
        self.ends.append("ended")

    def on_error(self, error: pb.Error) -> None:
        self.ends.append(f"error {error.kind}")

    def on_lost(self, outcome: Outcome, reason: str) -> None:
        self.outcome = outcome
        self.ends.append("lost")

    @property
    def body(self) -> bytes:
        return b"".join(part.body if isinstance(part, pb.Head) else part.payload for part in self.parts)


class Owner:
    def __init__(self) -> None:
        self.rooms = 0
        self.lost: str | None = None
        self.on_room_do: Callable[[], None] = lambda: None

    def on_ready(self) -> None:
        self.rooms += 1

    def on_room(self) -> None:
        self.rooms += 1
        self.on_room_do()

    def on_silent(self) -> None:
        self.rooms += 1

    def on_lost(self, reason: str) -> None:
        assert self.lost is None, "lost twice"
        self.lost = reason


class Pair:
    def __init__(self, capacity: int = 10, service: StreamService | None = None, token: ClusterToken = TOKEN) -> None:
        self.handler = Holding()
        self.service = service or StreamService(IDENTITY, TOKEN, self.handler, capacity)
        self.owner = Owner()
        self.client = ClientStream(IDENTITY, token, "test", self.owner)
        self.server = ServerStream(self.service)

    def greet(self) -> Pair:
        self.up()
        self.down()
        return self

    def up(self) -> bool:
        """One frame from the caller to the replica."""
        frame = self.client.outbox.take()
        if frame is not None and not self.server.closed:
            self.server.receive(frame)
        return frame is not None

    def down(self) -> bool:
        frame = self.server.outbox.take()
        if frame is not None and not self.client.closed:
            self.client.receive(frame)
        return frame is not None

    def settle(self) -> None:
        while self.up() | self.down():
            pass

    def cut(self) -> None:
        """The connection is gone, for both ends."""
        for end in (self.client, self.server):
            end.outbox.discard()
            end.lost("cut")

    def open(self, body: bytes = b"", end: bool = True) -> Answer:
        answer = Answer()
        self.client.open(pb.Open(http=pb.HttpHead(method="GET")).SerializeToString(), body, end, answer)
        return answer
