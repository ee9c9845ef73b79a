"""Open and Cancel in one frame, with arguments still on their way: the slot must come back."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from serve_rt.aio import TaskOwner
from serve_rt.context import RequestContext
from serve_rt.model.ids import AppName, DeploymentKey, DeploymentName
from serve_rt.pb import stream_pb2 as pb
from serve_rt.replica.access_log import AccessLog
from serve_rt.replica.call import Call, Roads
from serve_rt.replica.crossing import Crossing
from serve_rt.replica.dispatch import Dispatch
from serve_rt.replica.thread_pool import ThreadPool
from serve_rt.replica.user_loop import UserLoop
from serve_rt.transport.data import Data
from serve_rt.transport.server import StreamService
from tests.transport.pair import IDENTITY, TOKEN, Pair


def test_cancelled_before_the_arguments_are_gathered_frees_the_slot() -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        user_loop = UserLoop()
        user_loop.start()
        tasks = TaskOwner("test")
        roads = Roads(Crossing(loop, "user -> main"), user_loop.posts, tasks, AccessLog(loop, "test"))
        key = DeploymentKey(AppName("app"), DeploymentName("D"))
        dispatch = Dispatch(key, user_loop, ThreadPool(1), roads)
        pair = Pair(service=StreamService(IDENTITY, TOKEN, dispatch, 4)).greet()
        opened = pb.ClientPart(open=pb.Open(id=1, call=pb.MethodCall(method="__call__")))
        cancel = pb.ClientPart(cancel=pb.Cancel(id=1))
        pair.server.receive(pb.ClientFrame(parts=[opened, cancel]).SerializeToString())
        async with asyncio.timeout(5):
            while pair.service.ongoing:  # noqa: ASYNC110  # there is no event for a slot that is free
                await asyncio.sleep(0.005)
        assert dispatch.ongoing == 0
        pair.cut()
        await tasks.close()
        user_loop.stop()

    asyncio.run(run())


def test_a_reader_of_a_body_is_told_when_its_fetch_never_began() -> None:
    async def run() -> None:
        tasks = TaskOwner("test")
        told: list[tuple[Any, tuple[Any, ...]]] = []
        to_user = SimpleNamespace(post=lambda step, *args: told.append((step, args)))
        roads: Any = SimpleNamespace(tasks=tasks, to_user=to_user)
        pair = Pair().greet()
        pair.open(b"", end=False)
        pair.settle()
        call = Call(pair.handler.running[0], RequestContext(), roads, ("POST", "/"), lambda call: None)
        arrived: asyncio.Future[Data | None] = asyncio.get_running_loop().create_future()
        call._reading = arrived
        call._on_wanted()
        call._stop_user_code()  # before the loop has turned: the fetch is cancelled before its first step
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for step, args in told:  # as the user loop would run them
            if step == call._arrived:
                step(*args)
        assert arrived.done() and arrived.result() is None
        await tasks.close()
        pair.cut()

    asyncio.run(run())


def test_a_part_whose_reader_gave_up_goes_to_the_next_one() -> None:
    """`asyncio.wait_for(socket.receive_text(), 1)` asks and goes; what comes then is not lost."""

    async def run() -> None:
        here = SimpleNamespace(post=lambda step, *args: step(*args))
        roads: Any = SimpleNamespace(tasks=None, to_user=here, to_main=here)
        pair = Pair().greet()
        pair.open(b"", end=False)
        [sent] = pair.client.requests.values()
        pair.settle()
        call = Call(pair.handler.running[0], RequestContext(), roads, ("POST", "/"), lambda call: None)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(call.receive_part(), 0.01)
        for payload in (b"one", b"two", b"three"):
            sent.send(payload, end=payload == b"three")
            pair.settle()
        parts = [await call.receive_part() for _ in range(4)]
        assert [part.payload for part in parts if part is not None] == [b"one", b"two", b"three"]
        assert parts[3] is None
        pair.cut()

    asyncio.run(run())
