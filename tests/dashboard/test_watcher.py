"""What the watcher makes of agents that answer, fail and hang: it goes on, and says what is missing."""

from __future__ import annotations

from typing import Any, cast

import pytest

from serve_rt.aio import ManualClock
from serve_rt.api.client import AgentClient
from serve_rt.dashboard.watcher import Watcher
from serve_rt.errors import UnavailableError
from serve_rt.model.scaling import ScalingOverview
from serve_rt.model.status import NodeOverview, NodesOverview, ServeStatus

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Agent:
    """As AgentClient, with answers that the test sets; an exception is raised."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.answers: dict[str, Any] = {
            "status": ServeStatus(), "nodes": NodesOverview(), "autoscaling": ScalingOverview(), "metrics": "",
        }  # fmt: skip
        self.closed = False

    def _answer(self, name: str) -> Any:
        answer = self.answers[name]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def status(self) -> Any:
        return self._answer("status")

    async def nodes(self) -> Any:
        return self._answer("nodes")

    async def autoscaling(self, app: str) -> Any:
        return self._answer("autoscaling")

    async def metrics(self, timeout_s: float) -> Any:
        return self._answer("metrics")

    async def close(self) -> None:
        self.closed = True


def node(name: str, address: str, alive: bool = True) -> NodeOverview:
    return NodeOverview(name, address, alive, "schedulable", 1000, 0)


def watching(*agents: Agent) -> Watcher:
    known = {agent.address: cast(AgentClient, agent) for agent in agents}
    return Watcher("c", known[agents[0].address], known.__getitem__, ManualClock())


async def test_what_cannot_be_had_stays_as_it_was_and_is_said() -> None:
    first = Agent("h:1")
    watcher = watching(first)
    first.answers["status"] = ServeStatus(leader="n1")
    await watcher.look()
    assert watcher.view.status.leader == "n1" and not watcher.view.trouble
    first.answers["status"] = UnavailableError("the agent is gone")
    await watcher.look()
    assert watcher.view.status.leader == "n1"
    assert watcher.view.trouble == ("status: the agent is gone",)
    assert len(watcher.history.after(0)) == 2


async def test_every_live_node_is_asked_and_clients_of_lost_ones_are_closed() -> None:
    first, second = Agent("h:1"), Agent("h:2")
    text = 'ray_serve_num_http_requests_total{application="a",worker="w"} %d\n'
    watcher = watching(first, second)
    first.answers["nodes"] = NodesOverview((node("n1", "h:1"), node("n2", "h:2"), node("n3", "h:3", alive=False)))
    second.answers["metrics"] = text % 5
    await watcher.look()
    second.answers["metrics"] = text % 9
    cast(ManualClock, watcher._clock).advance(2.0)
    await watcher.look()
    assert watcher.history.after(1)[0].applications["a"].requests_per_s == 2.0
    first.answers["nodes"] = NodesOverview((node("n1", "h:1"), node("n2", "h:2", alive=False)))
    await watcher.look()
    assert second.closed and not first.closed


async def test_a_node_that_does_not_tell_costs_only_its_own_page() -> None:
    first, second = Agent("h:1"), Agent("h:2")
    watcher = watching(first, second)
    first.answers["nodes"] = NodesOverview((node("n1", "h:1"), node("n2", "h:2")))
    second.answers["metrics"] = UnavailableError("no route to host")
    await watcher.look()
    assert watcher.view.trouble == ("metrics of n2: no route to host",)
    await watcher.close()
    assert second.closed and not first.closed
