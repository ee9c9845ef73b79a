"""Real replicas, in this process: a StreamService on a gRPC server, with a handler that does as the test says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc.aio

from serve_rt.credentials import ClusterToken, stream_server
from serve_rt.model.ids import AppName, DeploymentKey, DeploymentName, NodeId, ReplicaId
from serve_rt.model.routes import AppRoute, Availability, DeploymentRoute, ReplicaRoute, RouteTable
from serve_rt.pb import stream_pb2 as pb
from serve_rt.routing import Exchange, Outgoing, Router, Routers
from serve_rt.transport.server import ReplicaIdentity, ServerRequest, StreamService

CLUSTER = "test"
TOKEN = ClusterToken(b"t" * 32)
KEY = DeploymentKey(AppName("app"), DeploymentName("D"))


@dataclass
class Scripted:
    """Runs `act` for each request; by default an echo. `hold` keeps requests until `let_go`."""

    act: Callable[[ServerRequest], None] | None = None
    started: list[str] = field(default_factory=list)
    held: list[ServerRequest] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)

    def start(self, request: ServerRequest) -> None:
        self.started.append(request.open.request_id)
        (self.act or echo)(request)

    def hold(self, request: ServerRequest) -> None:
        self.held.append(request)

        def stop(_reason: str) -> None:
            self.cancelled.append(request.open.request_id)
            if request in self.held:
                self.held.remove(request)
                request.finished()

        request.on_cancel = stop

    def let_go(self) -> None:
        while self.held:
            echo(self.held.pop(0))


def echo(request: ServerRequest) -> None:
    body = request.open.body or request.open.request_id.encode()
    request.head(200, (b"content-type", b"text/plain"), body=body, end=True)
    request.finished()


@dataclass
class Replica:
    service: StreamService
    server: grpc.aio.Server
    port: int
    handler: Scripted
    route: ReplicaRoute

    async def kill(self) -> None:
        """As a process that ends: every connection breaks, nothing is said."""
        await self.server.stop(0)


class Replicas:
    def __init__(self) -> None:
        self.all: list[Replica] = []
        self.routers: list[Routers] = []

    async def start(self, name: str, *, capacity: int = 10, incarnation: int = 1) -> Replica:
        handler = Scripted()
        replica_id = ReplicaId(f"app#D#{name}")
        service = StreamService(ReplicaIdentity(CLUSTER, replica_id, incarnation), TOKEN, handler, capacity)
        server = stream_server(TOKEN)
        server.add_generic_rpc_handlers((service.grpc_handler,))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        route = ReplicaRoute(replica_id, incarnation, f"127.0.0.1:{port}", NodeId("n"))
        replica = Replica(service, server, port, handler, route)
        self.all.append(replica)
        return replica

    def client(self, *replicas: Replica, **route: Any) -> Router:
        routers = Routers(CLUSTER, TOKEN, f"client-{len(self.routers)}")
        self.routers.append(routers)
        routers.update(table(*replicas, **route))
        return routers.router(KEY)

    async def close(self) -> None:
        for routers in self.routers:
            await routers.close()
        for replica in self.all:
            await replica.service.close()
            await replica.server.stop(0)


def table(*replicas: Replica, app: AppRoute | None = None, **route: Any) -> RouteTable:
    availability = Availability.WAIT
    deployment = DeploymentRoute(
        KEY.app,
        KEY.deployment,
        tuple(replica.route for replica in replicas),
        **{"availability": availability, **route},
    )
    return RouteTable(CLUSTER, 1, (app or AppRoute(KEY.app, "/", KEY.deployment),), (deployment,))


@contextlib.asynccontextmanager
async def replicas() -> AsyncIterator[Replicas]:
    made = Replicas()
    try:
        yield made
    finally:
        await made.close()


def outgoing(request_id: str = "r", **changed: object) -> Outgoing:
    fields: dict[str, object] = {"http": pb.HttpHead(method="GET", path="/"), "call": None, "body": b"", "end": True}
    return Outgoing(**{**fields, "request_id": request_id, "queue_timeout_s": 10.0, **changed})  # type: ignore[arg-type]


async def answer(exchange: Exchange) -> bytes:
    body = b""
    while (part := await exchange.read()) is not None:
        body += part.body if isinstance(part, pb.Head) else part.payload
    return body


async def ask(router: Router, request_id: str = "r", **changed: object) -> bytes:
    return await answer(await router.send(outgoing(request_id, **changed)))


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a state that will come by itself."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # any state of any object: there is no event for it
            await asyncio.sleep(0.002)
    assert condition(), what
