"""`serve.run(app, _local_testing_mode=True)`: the whole application in this process, for unit tests on any system.

Handles are the real ones; behind them, instead of streams to replicas, stands one instance of each deployment on an
event loop of its own. Arguments, answers and errors are pickled as on the wire. There is no HTTP, one replica of each
deployment, no health check and no resource limit.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from serve_rt.api.graph import BoundDeployment, flatten
from serve_rt.api.options import resolve
from serve_rt.api.payload import Payload, pack, unpack
from serve_rt.context import RequestContext, current_request
from serve_rt.errors import ConflictError, ServeException, UserCodeError
from serve_rt.handle import DeploymentHandle
from serve_rt.handle.driver_loop import DriverLoop, driver_loop
from serve_rt.handle.runtime import HandleRuntime, find_runtime, install
from serve_rt.handle.serialization import dump_error, dump_value, loads
from serve_rt.model.ids import AppName, DeploymentKey, DeploymentName
from serve_rt.model.routes import AppRoute, DeploymentRoute, RouteTable
from serve_rt.multiplex.held import held
from serve_rt.pb import stream_pb2 as pb

if TYPE_CHECKING:
    from serve_rt.api.targets import RunTarget
    from serve_rt.routing import Exchange, Outgoing

READ_AHEAD = 16
MOST_THREADS = 256
"""Sync methods at once, as in a replica: some wait for others."""


@dataclass(frozen=True)
class _LocalReplica:
    """One deployment's instance, or its function. Any: it is of the user's own class."""

    target: Any

    def method(self, name: str) -> Any:
        """*Errors*: ServeException naming the methods there are."""
        method = self.target if name == "__call__" and not inspect.isclass(self.target) else None
        method = method or getattr(self.target, name, None)
        if not callable(method):
            known = [one for one in dir(self.target) if not one.startswith("_") and callable(getattr(self.target, one))]
            raise ServeException(f"Tried to call a method '{name}' that does not exist. Available methods: {known}.")
        return method


class _LocalExchange:
    """One call on the user loop; its parts cross over to the runtime's loop, a few at a time."""

    def __init__(self, replica: _LocalReplica, request: Outgoing, key: DeploymentKey, user: DriverLoop) -> None:
        self.replica_id = f"{key.app}#{key.deployment}#local"
        self._loop = asyncio.get_running_loop()
        self._parts: asyncio.Queue[pb.Data | UserCodeError] = asyncio.Queue(READ_AHEAD)
        self._replica, self._request = replica, request
        self._context = RequestContext(
            request_id=request.request_id,
            app=key.app,
            deployment=key.deployment,
            multiplexed_model_id=request.multiplexed_model_id,
            session_id=request.session_id,
            deadline=request.deadline,
        )
        self.route = None
        self._over = False
        self._user = user
        self._work: concurrent.futures.Future[None] | None = None
        if request.end:  # else it is a reserved slot: the arguments come when it is used
            self._begin()

    @property
    def over(self) -> bool:
        return self._over

    async def started(self) -> None:
        """At once: there is always room."""

    def send(self, payload: bytes, *, end: bool = False, kind: int = 0) -> None:
        """What a reserved slot is used for."""
        if kind == pb.DATA_KIND_CALL:
            self._request.call = pb.MethodCall.FromString(payload)
        else:
            self._request.body = payload
        if end:
            self._begin()

    def _begin(self) -> None:
        self._work = asyncio.run_coroutine_threadsafe(self._run(), self._user.loop)

    async def _run(self) -> None:
        current_request.set(self._context)
        try:
            args, kwargs = loads(self._request.body)
            await self._answer(args, kwargs)
        except Exception as error:  # user code
            dumped = dump_error(error)
            await self._put(UserCodeError(dumped.kind, dumped.message, dumped.pickled, dumped.traceback))

    async def _answer(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        call = self._request.call
        assert call is not None
        method = self._replica.method(call.method)
        if _is_sync(method):
            result = await asyncio.to_thread(method, *args, **kwargs)
        else:
            result = method(*args, **kwargs)
        if inspect.isawaitable(result):
            result = await result
        if inspect.isasyncgen(result) or inspect.isgenerator(result):
            await self._stream(call, result)
        elif call.stream:
            raise TypeError(
                f"Called method '{call.method}' with 'handle.options(stream=True)' but it did not return a generator."
            )
        else:
            await self._put(pb.Data(payload=dump_value(result), end=True))

    async def _stream(self, call: pb.MethodCall, items: Any) -> None:
        if not call.stream:
            raise TypeError(
                f"Method '{call.method}' returned a generator. You must use `handle.options(stream=True)` to call "
                "generators on a deployment."
            )
        if inspect.isasyncgen(items):
            async for item in items:
                await self._put(pb.Data(payload=dump_value(item), kind=pb.DATA_KIND_ITEM))
        else:
            for item in items:
                await self._put(pb.Data(payload=dump_value(item), kind=pb.DATA_KIND_ITEM))
        await self._put(pb.Data(end=True, kind=pb.DATA_KIND_ITEM))

    async def _put(self, part: pb.Data | UserCodeError) -> None:
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._parts.put(part), self._loop))

    async def read(self) -> pb.Data | None:
        if self._over:
            return None
        part = await self._parts.get()
        if isinstance(part, UserCodeError):
            self._over = True
            raise part
        self._over = part.end
        return part

    def cancel(self, reason: str) -> None:
        self._over = True
        self._context.cancelled.set()
        if self._work is not None:
            self._work.cancel()


def _is_sync(method: Any) -> bool:
    called = method if inspect.isroutine(method) else type(method).__call__
    return not (
        inspect.iscoroutinefunction(called) or inspect.isasyncgenfunction(called) or inspect.isgeneratorfunction(called)
    )


class _LocalRouter:
    def __init__(self, key: DeploymentKey, replica: _LocalReplica, user: DriverLoop) -> None:
        self._key, self._replica, self._user = key, replica, user

    async def send(self, request: Outgoing) -> Exchange:
        # It has all of an Exchange that a call uses.
        return cast("Exchange", _LocalExchange(self._replica, request, self._key, self._user))

    def send_at_once(self, request: Outgoing) -> Exchange | None:
        return None  # nothing is fast here, and an answer comes when it comes

    async def send_everywhere(self, request: Outgoing) -> list[Exchange]:
        return [await self.send(request)]


class LocalApps:
    """A RouteSource whose routes end in this process."""

    def __init__(self) -> None:
        self._user = DriverLoop()
        self._user.loop.set_default_executor(concurrent.futures.ThreadPoolExecutor(MOST_THREADS, "sync handler"))
        self._replicas: dict[DeploymentKey, _LocalReplica] = {}
        self._apps: dict[AppName, AppRoute] = {}
        self._known: set[DeploymentKey] = set()
        self.runtime = HandleRuntime(driver_loop().loop, self._open)

    async def _open(self) -> LocalApps:
        return self

    @property
    def table(self) -> RouteTable | None:
        routes = tuple(DeploymentRoute(key.app, key.deployment) for key in self._replicas)
        return RouteTable("local", 1, tuple(self._apps.values()), routes)

    def router(self, key: DeploymentKey) -> _LocalRouter:
        return _LocalRouter(key, self._replicas[key], self._user)

    def demand(self) -> dict[DeploymentKey, tuple[int, int]]:
        return {}  # no queue and no limit: nothing waits here

    def was_known(self, key: DeploymentKey) -> bool:
        return key in self._known

    async def wait_for_change(self) -> None:
        await asyncio.sleep(0.05)  # whatever changes does so in other threads; names are looked up for a second

    async def close(self) -> None:
        self._replicas.clear()
        self._apps.clear()

    def has(self, app: str) -> bool:
        return AppName(app) in self._apps

    def drop(self, app: str) -> None:
        self._apps.pop(AppName(app), None)
        for key in [key for key in self._replicas if key.app == app]:
            del self._replicas[key]

    def deploy(self, target: RunTarget) -> DeploymentHandle[Any]:
        """*Errors*: what a constructor raises."""
        graph = flatten(target.target, target.name)
        for bound in graph.deployments:
            key = DeploymentKey(AppName(target.name), DeploymentName(bound.name))
            self._replicas[key] = self._user.run(_construct(bound))
            self._known.add(key)
        self._apps[AppName(target.name)] = AppRoute(
            AppName(target.name), target.route_prefix, DeploymentName(graph.ingress)
        )
        return DeploymentHandle(graph.ingress, target.name)


async def _construct(bound: BoundDeployment) -> _LocalReplica:
    payload = unpack(pack(Payload(bound.deployment.func_or_class, bound.args, bound.kwargs)))
    if not inspect.isclass(payload.target):
        return _LocalReplica(payload.target)
    instance: Any = payload.target.__new__(payload.target)
    made = payload.target.__init__(instance, *payload.args, **payload.kwargs)
    if inspect.isawaitable(made):
        await made
    config = resolve(bound.deployment.given).user_config_json
    if config is not None:
        answer = instance.reconfigure(json.loads(config))
        if inspect.isawaitable(answer):
            await answer
    return _LocalReplica(instance)


_local: LocalApps | None = None


def run_local(targets: list[RunTarget], *, if_absent: bool = False) -> list[DeploymentHandle[Any]]:
    """Deploy in this process; handles made from now on lead here.

    *Errors*: ConflictError when `if_absent` and there is an application of that name.
    """
    global _local
    if _local is None or find_runtime() is not _local.runtime:
        _local = LocalApps()
        install(_local.runtime)
        held.watch(lambda _models: None)
    taken = next((one.name for one in targets if if_absent and _local.has(one.name)), None)
    if taken is not None:
        raise ConflictError(f"there is an application {taken!r} already")
    return [_local.deploy(target) for target in targets]


def drop_local(app: str) -> None:
    """Forget an application of this process; what it does now goes on unseen."""
    if _local is not None:
        _local.drop(app)


def is_local(runtime: HandleRuntime) -> bool:
    return _local is not None and runtime is _local.runtime
