"""A cluster for handles in one process: routes and routers that answer with a function of the test."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from serve_rt.errors import UserCodeError
from serve_rt.handle.runtime import HandleRuntime
from serve_rt.handle.serialization import dump_error, dump_value, loads
from serve_rt.model.ids import AppName, DeploymentKey, DeploymentName
from serve_rt.model.routes import AppRoute, DeploymentRoute, RouteTable
from serve_rt.pb import stream_pb2 as pb

Method = Callable[..., Any]
"""What a test's deployment does; Any: it stands for user code."""


class FakeExchange:
    """Runs the method in a task and gives its answer out as parts."""

    def __init__(self, call: pb.MethodCall, work: Any) -> None:
        self.cancelled_for = ""
        self.replica_id = "app#echo#aaaaaa"
        self._call = call
        self._parts: asyncio.Queue[pb.Data | BaseException] = asyncio.Queue(4)
        self._task = asyncio.ensure_future(self._run(work))
        self._over = False

    async def _run(self, work: Any) -> None:
        try:
            if isinstance(work, AsyncIterator):
                async for item in work:
                    await self._parts.put(pb.Data(payload=dump_value(item), kind=pb.DATA_KIND_ITEM))
                await self._parts.put(pb.Data(end=True, kind=pb.DATA_KIND_ITEM))
            else:
                payload = dump_value(await work)
                half = len(payload) // 2
                await self._parts.put(pb.Data(payload=payload[:half]))
                await self._parts.put(pb.Data(payload=payload[half:], end=True))
        except asyncio.CancelledError:
            raise
        except Exception as error:  # what a replica sends of user code's failure
            dumped = dump_error(error)
            await self._parts.put(UserCodeError(dumped.kind, dumped.message, dumped.pickled, dumped.traceback))

    async def read(self) -> pb.Data | None:
        if self._over:
            return None
        part = await self._parts.get()
        if isinstance(part, BaseException):
            raise part
        self._over = part.end
        return part

    def cancel(self, reason: str) -> None:
        self.cancelled_for = reason
        self._task.cancel()


class FakeRouter:
    def __init__(self, methods: dict[str, Method]) -> None:
        self.methods = methods
        self.sent: list[Any] = []
        self.exchanges: list[FakeExchange] = []

    async def send(self, request: Any) -> Any:
        self.sent.append(request)
        args, kwargs = loads(request.body)
        exchange = FakeExchange(request.call, self.methods[request.call.method](*args, **kwargs))
        self.exchanges.append(exchange)
        return exchange

    def send_at_once(self, request: Any) -> Any:
        return None  # everything waits for something here

    async def send_everywhere(self, request: Any) -> list[Any]:
        return [await self.send(request) for _ in range(2)]


KEY = DeploymentKey(AppName("app"), DeploymentName("echo"))


def table(*keys: DeploymentKey, revision: int = 1) -> RouteTable:
    apps = tuple(AppRoute(key.app, "/", key.deployment) for key in keys)
    return RouteTable("test", revision, apps, tuple(DeploymentRoute(key.app, key.deployment) for key in keys))


class FakeRoutes:
    """A RouteSource; `show` changes the table from any thread."""

    def __init__(self, router: FakeRouter, first: RouteTable) -> None:
        self.router_of_all = router
        self._table = first
        self._known = {route.key for route in first.deployments}
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.closed = False

    @property
    def table(self) -> RouteTable | None:
        return self._table

    def router(self, key: DeploymentKey) -> FakeRouter:
        return self.router_of_all

    def was_known(self, key: DeploymentKey) -> bool:
        return key in self._known

    async def wait_for_change(self) -> None:
        await self._changed.wait()

    def show(self, new: RouteTable) -> None:
        def change() -> None:
            self._table = new
            self._known |= {route.key for route in new.deployments}
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()

        self._loop.call_soon_threadsafe(change)

    def demand(self) -> dict[DeploymentKey, tuple[int, int]]:
        return {}

    async def close(self) -> None:
        self.closed = True


class FakeCluster:
    """A runtime on a loop thread of its own, as a driver has it."""

    def __init__(self, methods: dict[str, Method], first: RouteTable) -> None:
        self.loop = asyncio.new_event_loop()
        self.router = FakeRouter(methods)
        self.routes: FakeRoutes | None = None
        self._first = first
        self._thread = threading.Thread(target=self.loop.run_forever, name="fake driver loop")
        self._thread.start()
        self.runtime = HandleRuntime(self.loop, self._open)

    async def _open(self) -> FakeRoutes:
        self.routes = FakeRoutes(self.router, self._first)
        return self.routes

    def stop(self) -> None:
        async def end() -> None:
            await self.runtime.close()
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self.loop).result(5)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(5)
        self.loop.close()


@contextmanager
def cluster(methods: dict[str, Method], first: RouteTable | None = None) -> Iterator[FakeCluster]:
    fake = FakeCluster(methods, first or table(KEY))
    try:
        yield fake
    finally:
        fake.stop()
