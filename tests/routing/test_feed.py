"""Routes from agents: the next agent when one is lost, the last table on disk when none answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from serve_rt.credentials import control_server
from serve_rt.model.routes import RouteTable
from serve_rt.pb import control_pb2
from serve_rt.routing import FeedClient
from serve_rt.wire import records
from tests.routing.replicas import TOKEN, until

pytestmark = pytest.mark.anyio


class Agent:
    """Serves Feed and nothing else."""

    def __init__(self) -> None:
        self.tables: asyncio.Queue[RouteTable] = asyncio.Queue(10)
        self._server = control_server(TOKEN)
        self.address = ""

    async def start(self) -> Agent:
        handler: grpc.RpcMethodHandler[Any, Any] = grpc.unary_stream_rpc_method_handler(
            self._feed,
            request_deserializer=control_pb2.FeedRequest.FromString,
            response_serializer=control_pb2.FeedUpdate.SerializeToString,
        )
        service = grpc.method_handlers_generic_handler("serve_rt.v1.Agent", {"Feed": handler})
        self._server.add_generic_rpc_handlers((service,))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()
        return self

    async def _feed(self, _request: Any, _context: Any) -> AsyncIterator[Any]:
        while True:
            yield control_pb2.FeedUpdate(table=records.encode(await self.tables.get()))

    async def stop(self) -> None:
        await self._server.stop(0)


async def test_it_moves_to_another_agent_and_keeps_the_table(tmp_path: Path) -> None:
    first, second = await Agent().start(), await Agent().start()
    seen: list[int] = []
    snapshot = tmp_path / "routes.json"
    feed = FeedClient((first.address,), TOKEN, "test", lambda table: seen.append(table.revision), snapshot)
    feed.start()
    try:
        first.tables.put_nowait(RouteTable("test", 1, agents=(first.address, second.address)))
        await until(lambda: seen == [1] and snapshot.exists(), "the first table, on disk too")
        assert feed.age_s == 0.0
        await first.stop()
        second.tables.put_nowait(RouteTable("test", 2, agents=(second.address,)))
        await until(lambda: seen == [1, 2], "the other agent's")
        await until(lambda: b'"revision":2' in snapshot.read_bytes(), "saved")
    finally:
        await feed.close()
        await second.stop()
        await first.stop()


async def test_it_starts_from_disk_when_nobody_answers(tmp_path: Path) -> None:
    snapshot = tmp_path / "routes.json"
    snapshot.write_bytes(records.encode(RouteTable("test", 7)))
    seen: list[int] = []
    feed = FeedClient(("127.0.0.1:1",), TOKEN, "test", lambda table: seen.append(table.revision), snapshot)
    feed.start()
    try:
        await until(lambda: seen == [7], "the saved table")
        assert feed.age_s is not None and feed.age_s >= 0.0
    finally:
        await feed.close()


async def test_a_damaged_snapshot_is_not_the_end(tmp_path: Path) -> None:
    snapshot = tmp_path / "routes.json"
    snapshot.write_bytes(b"{")
    seen: list[int] = []
    agent = Agent()
    feed = FeedClient(("127.0.0.1:1",), TOKEN, "test", lambda table: seen.append(table.revision), snapshot)
    feed.start()
    try:
        await asyncio.sleep(0.1)
        assert seen == []
        await agent.start()
        feed._first_addresses = (agent.address,)
        agent.tables.put_nowait(RouteTable("test", 1))
        await until(lambda: seen == [1], "an agent came")
    finally:
        await feed.close()
        await agent.stop()
