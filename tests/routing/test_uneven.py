"""Replicas that are not alike: one slow, one dead; real routers and replicas, in one process."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from serve_rt.errors import BackPressureError, ReplicaDiedError
from serve_rt.routing import Router
from serve_rt.transport.server import ServerRequest
from tests.routing.replicas import Replica, Replicas, ask, replicas, until

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def working(name: str, work_s: float, them: Replicas, *, capacity: int = 10) -> Replica:
    """A replica that answers after so long."""
    replica = await them.start(name, capacity=capacity)

    def act(request: ServerRequest) -> None:
        asyncio.get_running_loop().call_later(work_s, finish, request)

    def finish(request: ServerRequest) -> None:
        request.head(200, (), body=request.open.request_id.encode(), end=True)
        request.finished()

    replica.handler.act = act
    return replica


@dataclass
class Clients:
    """Each request is asked up to `attempts` times, without a pause, while it is refused or lost."""

    router: Router
    attempts: int = 1
    sent: int = 0
    asked: int = 0
    answered: int = 0
    asking: set[asyncio.Task[None]] = field(default_factory=set)

    async def send(self, seconds: float, rate_per_s: float) -> None:
        loop = asyncio.get_running_loop()
        begin = loop.time()
        for number in range(int(seconds * rate_per_s)):
            await asyncio.sleep(max(0.0, begin + number / rate_per_s - loop.time()))
            task = asyncio.create_task(self._ask(f"r{self.sent}"), name=f"r{self.sent}")
            self.sent += 1
            self.asking.add(task)
            task.add_done_callback(self.asking.discard)

    async def settled(self) -> None:
        await asyncio.gather(*self.asking)

    async def _ask(self, request_id: str) -> None:
        for _ in range(self.attempts):
            self.asked += 1
            try:
                assert await ask(self.router, request_id, retry_safe=True) == request_id.encode()
            except (BackPressureError, ReplicaDiedError):
                await asyncio.sleep(0)
            else:
                self.answered += 1
                return


async def test_a_replica_twenty_times_slower_gets_a_twentieth() -> None:
    """T24: its share is 5 % at most, from two seconds after it got slow (10 are promised)."""
    async with replicas() as them:
        slow, *_ = everyone = [await working(name, 0.02, them) for name in ("slow", "two", "three")]
        clients = Clients(them.client(*everyone))
        await until(lambda: "3 idle" in repr(clients.router), "links up")
        await clients.send(0.5, 60)
        slow.handler.act = (await working("slower", 0.4, them)).handler.act
        await clients.send(1.5, 60)
        before, sent = len(slow.handler.started), clients.sent
        await clients.send(2.5, 60)
        share = (len(slow.handler.started) - before) / (clients.sent - sent)
        await clients.settled()
    print(f"the slow one gets {share:.1%}")
    assert share <= 0.05 and clients.answered == clients.sent


async def test_clients_that_ask_again_at_once_do_not_multiply_the_work() -> None:
    """T74: one of three replicas is dead, the others cannot do all: at the replicas at most 1.2 attempts each."""
    async with replicas() as them:
        everyone = [await working(name, 0.02, them, capacity=2) for name in ("one", "two", "three")]
        router = them.client(*everyone, max_queued_requests=16)
        await until(lambda: "3 idle" in repr(router), "links up")
        clients = Clients(router, attempts=5)
        await clients.send(0.3, 240)
        await everyone[0].kill()
        await clients.send(1.5, 240)
        await clients.settled()
        reached = sum(len(replica.handler.started) for replica in everyone)
        calm = Clients(router)
        await calm.send(0.5, 100)
        await calm.settled()
    print(f"{clients.sent} requests, asked {clients.asked} times, {reached} reached a replica")
    assert clients.asked > 1.1 * clients.sent, "nobody had to ask again: the fault did not bite"
    assert reached <= 1.2 * clients.sent
    assert calm.answered == calm.sent, "it did not end with its cause"
