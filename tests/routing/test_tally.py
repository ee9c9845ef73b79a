"""What a router counts of each version while its route is guarded, and when its reporter tells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from serve_rt.errors import Outcome, ReplicaDiedError, UserCodeError
from serve_rt.model.tally import Tally
from serve_rt.routing import Routers
from serve_rt.transport.server import ServerRequest
from tests.routing.replicas import KEY, Replica, ask, outgoing, replicas, table, until

pytestmark = pytest.mark.anyio


def of_version(replica: Replica, version: str) -> Replica:
    replica.route = replace(replica.route, version=version)
    return replica


def seen(routers: Routers) -> dict[str, tuple[int, int]]:
    versions: dict[str, Tally] = routers.tallies().get(KEY, {})
    return {version: (tally.answered, tally.errors) for version, tally in versions.items()}


def answering(status: int) -> Callable[[ServerRequest], None]:
    def act(request: ServerRequest) -> None:
        request.head(status, (), end=True)
        request.finished()

    return act


def raising(request: ServerRequest) -> None:
    request.fail(Outcome.STARTED, "ValueError", "of the user")
    request.finished()


async def test_answers_errors_and_deaths_by_version() -> None:
    async with replicas() as made:
        one = of_version(await made.start("one"), "v1")
        router = made.client(one, guarded=True)
        routers = made.routers[0]
        one.handler.act = answering(200)
        await ask(router)
        one.handler.act = answering(404)
        await ask(router)
        assert seen(routers) == {"v1": (2, 0)}, "a client's mistake is nobody's error"

        one.handler.act = answering(503)
        await ask(router)
        one.handler.act = raising
        with pytest.raises(UserCodeError):
            await ask(router)
        assert seen(routers) == {"v1": (3, 2)}

        one.handler.act = one.handler.hold
        dying = await router.send(outgoing(retry_safe=False))
        await until(lambda: bool(one.service.ongoing), "it runs")
        await one.kill()
        with pytest.raises(ReplicaDiedError):
            await dying.read()
        assert seen(routers) == {"v1": (3, 3)}
        routers.update(table(one, guarded=False))
        assert routers.tallies() == {} and router.tallies is None


async def test_without_a_guard_nothing_is_counted_and_errors_are_told_at_once() -> None:
    async with replicas() as made:
        one = of_version(await made.start("one"), "v1")
        router = made.client(one)
        routers = made.routers[0]
        told: list[None] = []
        routers.on_errors = lambda: told.append(None)
        one.handler.act = answering(500)
        await ask(router)
        assert not routers.tallies()
        routers.update(table(one, guarded=True))
        for _ in range(8):
            await ask(router)
        assert seen(routers) == {"v1": (8, 8)} and len(told) == 2
