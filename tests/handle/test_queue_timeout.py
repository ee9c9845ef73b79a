"""How long a call waits for a slot: as the application that is called says, else for an hour."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from typing import Any

import pytest

from serve_rt.errors import DeadlineExceededError, QueueTimeoutError
from serve_rt.handle.call import Call, queue_timeout_s
from serve_rt.model.ids import AppName, DeploymentKey, DeploymentName
from serve_rt.model.routes import CALL_QUEUE_TIMEOUT_S, RouteTable
from serve_rt.routing import Outgoing
from tests.handle.fakes import KEY, table


class Routes:
    def __init__(self, shown: RouteTable | None) -> None:
        self.table = shown


def asks(routes: Any, key: DeploymentKey = KEY) -> float:
    return queue_timeout_s(routes, key)


def test_the_application_that_is_called_says_how_long() -> None:
    plain = table(KEY)
    assert asks(Routes(None)) == asks(Routes(plain)) == CALL_QUEUE_TIMEOUT_S
    given = dataclasses.replace(plain, apps=(dataclasses.replace(plain.apps[0], handle_queue_timeout_s=2.5),))
    assert asks(Routes(given)) == 2.5
    assert asks(Routes(given), DeploymentKey(AppName("other"), DeploymentName("x"))) == CALL_QUEUE_TIMEOUT_S


def outgoing(**changed: Any) -> Outgoing:
    return Outgoing(None, None, b"", True, "r", **changed)


class Waiting:
    """What `_wait_in_line` needs of a call."""

    key, request_id = KEY, "r"


@pytest.mark.anyio
async def test_the_wait_before_the_router_counts_and_ends() -> None:
    wait: Any = Call._wait_in_line
    line = asyncio.Semaphore(0)
    with pytest.raises(QueueTimeoutError, match=r"within 0.05 s"):
        await asyncio.wait_for(wait(Waiting(), line, outgoing(queue_timeout_s=0.05)), 10)
    with pytest.raises(DeadlineExceededError):
        late = outgoing(queue_timeout_s=50.0, deadline=time.monotonic() + 0.05)
        await asyncio.wait_for(wait(Waiting(), line, late), 10)
    patient = outgoing(queue_timeout_s=50.0)
    waiting = asyncio.ensure_future(wait(Waiting(), line, patient))
    asyncio.get_running_loop().call_later(0.1, line.release)
    await asyncio.wait_for(waiting, 10)
    assert patient.queue_timeout_s <= 49.95


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
