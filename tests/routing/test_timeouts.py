"""How long a request waits: counted once over all Rejecteds, and as the application says now."""

from __future__ import annotations

import asyncio
import time

import pytest

from serve_rt.errors import DeadlineExceededError, QueueTimeoutError
from serve_rt.model.routes import CALL_QUEUE_TIMEOUT_S, AppRoute
from serve_rt.pb import stream_pb2 as pb
from tests.routing.replicas import KEY, ask, outgoing, replicas, table, until

pytestmark = pytest.mark.anyio


def app(**changed: float | None) -> AppRoute:
    return AppRoute(KEY.app, "/", KEY.deployment, **changed)  # type: ignore[arg-type]


async def test_a_rejected_request_goes_on_waiting_where_it_was() -> None:
    async with replicas() as them:
        one = await them.start("one")
        one.service.set_accepting(False)
        router = them.client()
        exchange = router.admit(outgoing(queue_timeout_s=20.0))
        assert exchange.queue_timer is not None
        first_end_s, queued_s = exchange.queue_timer.when(), exchange.queued_s
        await until(lambda: time.monotonic() > queued_s + 0.2, "it has waited a while")
        them.routers[0].update(table(one))
        await until(lambda: one.service.counters["rejected_sent"] == 1 and router.waiting == 1, "rejected and back")
        on_replica_s = exchange.queued_s - exchange.put_s
        assert exchange.queue_timer.when() == pytest.approx(first_end_s + on_replica_s, abs=0.05)
        exchange.cancel("seen enough")


async def test_a_queue_timeout_that_changes_reaches_those_who_wait() -> None:
    async with replicas() as them:
        router = them.client(app=app(queue_timeout_s=600.0))
        call = pb.MethodCall(method="m")
        of_http = asyncio.ensure_future(ask(router, queue_timeout_s=600.0))
        of_handle = asyncio.ensure_future(ask(router, http=None, call=call, queue_timeout_s=CALL_QUEUE_TIMEOUT_S))
        own = asyncio.ensure_future(ask(router, queue_timeout_s=300.0))
        await until(lambda: router.waiting == 3, "all wait")
        them.routers[0].update(table(app=app(queue_timeout_s=0.05)))
        with pytest.raises(QueueTimeoutError, match=r"within 0.05 s"):
            await asyncio.wait_for(of_http, 10)
        them.routers[0].update(table(app=app(queue_timeout_s=0.05, handle_queue_timeout_s=0.06)))
        with pytest.raises(TimeoutError, match=r"within 0.06 s"):
            await asyncio.wait_for(of_handle, 10)
        assert router.waiting == 1, "what was not the application's word stays"
        own.cancel()
        await asyncio.wait({own})


async def test_a_request_timeout_that_changes_reaches_those_who_wait() -> None:
    async with replicas() as them:
        router = them.client(app=app())
        now = time.monotonic()
        free = router.admit(outgoing("free", began_s=now, own_timeouts_s=(None, None)))
        strict = router.admit(outgoing("strict", began_s=now, own_timeouts_s=(5.0, None), deadline=now + 5.0))
        call = router.admit(outgoing("call", deadline=now + 500.0))
        them.routers[0].update(table(app=app(request_timeout_s=60.0)))
        assert (free.request.deadline, strict.request.deadline) == (now + 60.0, now + 5.0)
        them.routers[0].update(table(app=app()))
        assert (free.request.deadline, strict.request.deadline) == (None, now + 5.0)
        them.routers[0].update(table(app=app(request_timeout_s=0.05)))
        with pytest.raises(DeadlineExceededError):
            await asyncio.wait_for(free.read(), 10)
        with pytest.raises(DeadlineExceededError):
            await asyncio.wait_for(strict.read(), 10)
        assert call.request.deadline == now + 500.0 and router.waiting == 1
        call.cancel("seen enough")
