"""What a process says of its demand: repeated while there is any, then once nothing, at once when nobody is there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from serve_rt.credentials import control_server
from serve_rt.errors import ServeException
from serve_rt.pb import control_pb2 as pb
from serve_rt.routing import DemandReporter, FeedClient, Routers
from serve_rt.routing import demand as demand_module
from serve_rt.wire.services import service_handler
from tests.routing.replicas import KEY, TOKEN, ask, until

pytestmark = pytest.mark.anyio


class Agent:
    """Only ReportDemand is asked for here."""

    def __init__(self) -> None:
        self.heard: list[tuple[float, pb.DemandReport]] = []
        self.deaf = False

    def __getattr__(self, name: str) -> Any:
        return self.report if name == "report_demand" else self.refuse

    async def report(self, request: pb.DemandReport, _context: Any) -> pb.DemandReply:
        if self.deaf:
            raise ServeException("deaf")
        self.heard.append((time.monotonic(), request))
        return pb.DemandReply()

    async def refuse(self, _request: Any, _context: Any) -> Any:
        raise ServeException("the stand-in agent does not do that")

    def counts(self) -> list[list[tuple[str, int, int]]]:
        return [[(e.app, e.queued, e.ongoing) for e in report.entries] for _, report in self.heard]


@asynccontextmanager
async def reporting() -> AsyncGenerator[tuple[Agent, Routers, FeedClient], None]:
    agent = Agent()
    server = control_server(TOKEN)
    server.add_generic_rpc_handlers((service_handler(pb.DESCRIPTOR.services_by_name["Agent"], agent),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    routers = Routers("test", TOKEN, "proxy")
    feed = FeedClient((), TOKEN, "proxy", routers.update, None)  # not started: only who is followed matters
    feed.agent = f"127.0.0.1:{port}"
    reporter = DemandReporter(routers, feed, TOKEN)
    reporter.start()
    try:
        yield agent, routers, feed
    finally:
        await reporter.close()
        await routers.close()
        await server.stop(0)


async def test_a_request_that_nobody_can_take_is_told_at_once() -> None:
    async with reporting() as (agent, routers, feed):
        await asyncio.sleep(0.1)  # the reporter is in the middle of its second
        began = time.monotonic()
        asked = asyncio.ensure_future(ask(routers.router(KEY)))
        await until(lambda: len(agent.heard) == 1, "told")
        assert agent.heard[0][0] - began < demand_module.REPEAT_S / 2
        assert agent.counts() == [[(KEY.app, 1, 0)]]
        assert agent.heard[0][1].reporter == feed.subscriber
        asked.cancel()


async def test_repeated_while_there_is_any_then_once_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demand_module, "REPEAT_S", 0.05)
    async with reporting() as (agent, routers, _):
        asked = asyncio.ensure_future(ask(routers.router(KEY)))
        await until(lambda: len(agent.heard) >= 3, "repeated")
        asked.cancel()
        await until(lambda: agent.counts()[-1] == [], "the end is told")
        told = len(agent.heard)
        await asyncio.sleep(0.3)
        assert len(agent.heard) == told, "nothing is said about nothing"
        numbers = [report.seq for _, report in agent.heard]
        assert numbers == sorted(set(numbers))


async def test_what_was_not_heard_is_said_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demand_module, "REPEAT_S", 0.05)
    async with reporting() as (agent, routers, feed):
        address, feed.agent = feed.agent, None
        asked = asyncio.ensure_future(ask(routers.router(KEY)))
        await asyncio.sleep(0.1)
        agent.deaf, feed.agent = True, address
        await asyncio.sleep(0.3)
        assert not agent.heard
        agent.deaf = False
        await until(lambda: agent.counts() == [[(KEY.app, 1, 0)]], "told when it can be heard")
        agent.deaf = True
        asked.cancel()
        await asyncio.sleep(0.3)
        agent.deaf = False
        await until(lambda: agent.counts()[-1] == [], "the final nothing is owed until it is heard")
