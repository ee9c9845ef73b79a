"""Open and Cancel in one frame, with arguments still on their way: the slot must come back."""

from __future__ import annotations

import asyncio

from serve_rt.aio import TaskOwner
from serve_rt.model.ids import AppName, DeploymentKey, DeploymentName
from serve_rt.pb import stream_pb2 as pb
from serve_rt.replica.access_log import AccessLog
from serve_rt.replica.call import Roads
from serve_rt.replica.crossing import Crossing
from serve_rt.replica.dispatch import Dispatch
from serve_rt.replica.thread_pool import ThreadPool
from serve_rt.replica.user_loop import UserLoop
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
