"""Any interleaving of frames, answers, reads, cancels and breaks: every request ends exactly once for its caller, and
nothing stays counted anywhere."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from serve_rt.errors import Outcome
from serve_rt.transport.client import ClientRequest
from serve_rt.transport.data import Data
from tests.transport.pair import Answer, Pair

STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["open", "upload", "up", "down", "head", "chunk", "whole", "fail", "read", "cancel", "leave", "drain"]
        ),
        st.integers(0, 7),
    ),
    max_size=120,
)


class World:
    def __init__(self, capacity: int) -> None:
        self.pair = Pair(capacity).greet()
        self.sent: list[tuple[ClientRequest, Answer]] = []
        self.read: dict[int, int] = {}
        self.cancelled: set[int] = set()
        self.left: set[int] = set()

    def step(self, what: str, which: int) -> None:
        pair = self.pair
        running = [request for request in pair.handler.running if id(request) not in self.left]
        request = running[which % len(running)] if running else None
        if what == "open":
            answer = Answer()
            self.sent.append((pair.client.open(b"", b"b" * which, which % 2 == 0, answer), answer))
        elif what in ("up", "down"):
            getattr(pair, what)()
        elif what == "drain":
            if which == 0:
                pair.server.drain()
        elif what in ("upload", "read", "cancel"):
            self.caller(what, which)
        elif request is not None:
            self.replica(what, which, request)

    def caller(self, what: str, which: int) -> None:
        if not self.sent:
            return
        index = which % len(self.sent)
        attempt, answer = self.sent[index]
        if what == "cancel":
            attempt.cancel("test")
            self.cancelled.add(index)
        elif what == "upload" and attempt.state.value != "done" and index not in self.cancelled:
            attempt.send(b"u" * 50_000 * which)
        elif what == "read":
            seen = self.read.get(index, 0)
            for part in answer.parts[seen:]:
                if isinstance(part, Data):
                    attempt.consumed(part.payload)
            self.read[index] = len(answer.parts)

    def replica(self, what: str, which: int, request: object) -> None:
        from serve_rt.transport.server import ServerRequest

        assert isinstance(request, ServerRequest)
        if what == "head":
            request.head(200, [])
        elif what == "chunk":
            request.data(b"d" * 40_000 * which)
        elif what == "whole":
            request.data(b"d" * 60_000 * which, end=True)
            self.leave(request)
        elif what == "fail":
            request.fail(Outcome.STARTED, "UserError", "no")
            self.leave(request)
        elif what == "leave":
            self.leave(request)

    def leave(self, request: object) -> None:
        self.left.add(id(request))
        request.finished()  # type: ignore[attr-defined]  # a ServerRequest

    def finish(self) -> None:
        """Everybody leaves and reads until nothing moves."""
        for _ in range(300):
            self.pair.settle()
            for request in self.pair.handler.running:
                if id(request) not in self.left:
                    self.leave(request)
            for index in range(len(self.sent)):
                self.caller("read", index)


@settings(max_examples=150, deadline=None)
@given(STEPS, st.integers(1, 4), st.booleans())
def test_every_request_ends_once_and_nothing_stays_counted(
    steps: list[tuple[str, int]], capacity: int, cut: bool
) -> None:
    async def run() -> None:
        world = World(capacity)
        for what, which in steps:
            world.step(what, which)
            assert world.pair.service.ongoing <= capacity
        if cut:
            world.pair.cut()
        world.finish()
        for index, (_, answer) in enumerate(world.sent):
            allowed = (0, 1) if index in world.cancelled else (1,)
            assert len(answer.ends) in allowed, (index, answer.ends)
        assert world.pair.client.reserved == 0
        assert world.pair.service.ongoing == 0
        assert not world.pair.server.requests
        world.pair.cut()

    asyncio.run(run())
