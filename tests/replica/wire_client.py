"""A plain client of a replica's two services: every part it receives can be looked at, none is interpreted."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from typing import Any

import grpc.aio

from serve_rt.credentials import ClusterToken, control_channel, stream_channel
from serve_rt.handle import serialization
from serve_rt.pb import replica_pb2
from serve_rt.pb import stream_pb2 as pb
from serve_rt.transport.limits import PART_COST_BYTES
from serve_rt.wire.services import Stub

PATIENCE_S = 20.0


class Answer:
    """All parts of one request, as they come."""

    def __init__(self, id_: int) -> None:
        self.id = id_
        self.parts: list[Any] = []
        self.changed = asyncio.Event()
        self.over = asyncio.Event()

    def add(self, part: Any) -> None:
        self.parts.append(part)
        self.changed.set()
        if isinstance(part, (pb.Error, pb.Ended, pb.Rejected)) or getattr(part, "end", False):
            self.over.set()

    async def whole(self) -> Answer:
        await asyncio.wait_for(self.over.wait(), PATIENCE_S)
        return self

    async def at_least(self, count: int, kind: type) -> list[Any]:
        while len(found := self.of(kind)) < count:
            self.changed.clear()
            await asyncio.wait_for(self.changed.wait(), PATIENCE_S)
        return found

    def of(self, kind: type) -> list[Any]:
        return [part for part in self.parts if isinstance(part, kind)]

    @property
    def head(self) -> pb.Head:
        head: pb.Head = self.of(pb.Head)[0]
        return head

    @property
    def headers(self) -> dict[bytes, bytes]:
        flat = iter(self.head.headers)
        return dict(zip(flat, flat, strict=True))

    @property
    def body(self) -> bytes:
        heads = b"".join(head.body for head in self.of(pb.Head))
        return heads + b"".join(data.payload for data in self.of(pb.Data))

    @property
    def error(self) -> pb.Error:
        assert self.of(pb.Error), f"no error, but {self.parts}"
        error: pb.Error = self.of(pb.Error)[0]
        return error

    @property
    def value(self) -> Any:
        assert not self.of(pb.Error), self.error
        return serialization.load_value(self.body)

    @property
    def items(self) -> list[Any]:
        """Of a streamed call; code 1: the same item goes on in the next part."""
        items, pieces = [], []
        for data in self.of(pb.Data):
            pieces.append(data.payload)
            if data.code == 0 and any(pieces):
                items.append(serialization.load_value(b"".join(pieces)))
                pieces = []
        return items

    def raised(self) -> BaseException:
        error = self.error
        return serialization.load_error(error.pickled, error.message, error.traceback)


class AgentSide:
    """The agent's calls: `async with AgentSide(address, token) as agent: await agent.stub.Ping(…)`."""

    def __init__(self, address: str, token: ClusterToken) -> None:
        self._address, self._token = address, token

    async def __aenter__(self) -> AgentSide:
        self._channel = control_channel(self._address, self._token)
        self.stub = Stub(self._channel, replica_pb2.DESCRIPTOR.services_by_name["Replica"])
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def report(self, phase: int) -> replica_pb2.ReplicaReport:
        """The first report of `phase`; waits for the process to listen."""
        watch = self.stub.Watch(replica_pb2.WatchRequest(), wait_for_ready=True, timeout=PATIENCE_S)
        seen: list[str] = []
        async for report in watch:
            if report.phase == phase:
                found: replica_pb2.ReplicaReport = report
                watch.cancel()
                return found
            seen.append(f"{report.phase} {report.message}")
        raise AssertionError(f"no report of phase {phase}, only {seen}")

    async def ping(self) -> replica_pb2.PingReply:
        reply: replica_pb2.PingReply = await self.stub.Ping(replica_pb2.PingRequest(), timeout=PATIENCE_S)
        return reply

    async def idle(self) -> None:
        """Return when no request holds a slot."""
        deadline_s = time.monotonic() + PATIENCE_S
        while (reply := await self.ping()).ongoing:
            assert time.monotonic() < deadline_s, reply


class WireClient:
    """`async with WireClient(address, token, replica_id) as client: …`; enters when the replica is READY."""

    def __init__(self, address: str, token: ClusterToken, replica_id: str, *, credit: bool = True) -> None:
        self._address, self._token, self._replica_id = address, token, replica_id
        self._credit = credit
        self._ids = itertools.count(1)
        self._answers: dict[int, Answer] = {}
        self._out: asyncio.Queue[pb.ClientFrame | None] = asyncio.Queue()
        self.loads: list[pb.Load] = []
        self.draining = asyncio.Event()

    async def __aenter__(self) -> WireClient:
        self._agent_side = await AgentSide(self._address, self._token).__aenter__()
        self.agent = self._agent_side.stub
        self.ready = await self._agent_side.report(replica_pb2.REPLICA_PHASE_READY)
        self._channel = stream_channel(self._address)
        stub = Stub(self._channel, pb.DESCRIPTOR.services_by_name["Requests"])
        self._call = stub.Exchange(wait_for_ready=True)
        hello = pb.ClientHello(
            protocol=1, cluster="c", token=self._token.secret, replica_id=self._replica_id, incarnation=1, client="test"
        )
        await self._call.write(pb.ClientFrame(hello=hello))
        first = await self._call.read()
        assert first is not grpc.aio.EOF and first.HasField("hello"), first
        self.hello = first.hello
        self._tasks = [
            asyncio.create_task(self._read(), name="wire reader"),
            asyncio.create_task(self._write(), name="wire writer"),
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._call.cancel()
        await self._channel.close()
        await self._agent_side.__aexit__()

    async def _read(self) -> None:
        try:
            while (frame := await self._call.read()) is not grpc.aio.EOF:
                for part in frame.parts:
                    self._take(getattr(part, part.WhichOneof("part")))
        except grpc.aio.AioRpcError:  # the replica has ended
            pass
        for answer in self._answers.values():
            answer.over.set()

    def _take(self, part: Any) -> None:
        if isinstance(part, pb.Load):
            self.loads.append(part)
        elif isinstance(part, pb.Drain):
            self.draining.set()
        elif isinstance(part, (pb.Pong, pb.Models)):
            pass
        elif part.id in self._answers:
            self._answers[part.id].add(part)
            if self._credit and isinstance(part, pb.Data):
                self._send(pb.ClientPart(credit=pb.Credit(id=part.id, bytes=len(part.payload) + PART_COST_BYTES)))

    async def _write(self) -> None:
        while (frame := await self._out.get()) is not None:
            await self._call.write(frame)

    def _send(self, *parts: pb.ClientPart) -> None:
        self._out.put_nowait(pb.ClientFrame(parts=parts))

    def open(self, **fields: Any) -> Answer:
        answer = Answer(next(self._ids))
        self._answers[answer.id] = answer
        self._send(pb.ClientPart(open=pb.Open(id=answer.id, app="app", request_id=f"r{answer.id}", **fields)))
        return answer

    def http(
        self,
        path: str = "/",
        *,
        method: str = "GET",
        body: bytes = b"",
        end: bool = True,
        headers: Sequence[bytes] = (),
        time_left_ms: int = 0,
        query: bytes = b"",
        kind: str = "http",
    ) -> Answer:
        head = pb.HttpHead(
            type=kind,
            method=method,
            path=path,
            raw_path=path.encode(),
            query_string=query,
            scheme="http",
            http_version="1.1",
            headers=headers,
            client_host="127.0.0.1",
            client_port=1,
            server_host="127.0.0.1",
            server_port=8000,
        )
        return self.open(http=head, body=body, end=end, route="/", time_left_ms=time_left_ms)

    def call(self, method: str, *args: Any, stream: bool = False, **kwargs: Any) -> Answer:
        body = serialization.dumps(args, kwargs)
        return self.open(call=pb.MethodCall(method=method, stream=stream), body=body, end=True)

    def data(self, answer: Answer, payload: bytes, *, end: bool = False, kind: int = 0, code: int = 0) -> None:
        self._send(pb.ClientPart(data=pb.Data(id=answer.id, payload=payload, end=end, kind=kind, code=code)))  # type: ignore[arg-type]  # the enum's number

    def cancel(self, answer: Answer) -> None:
        self._send(pb.ClientPart(cancel=pb.Cancel(id=answer.id, reason="test")))

    def grant_credit(self, answer: Answer, size: int) -> None:
        self._send(pb.ClientPart(credit=pb.Credit(id=answer.id, bytes=size)))
