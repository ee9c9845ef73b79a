"""What people do to the cluster: deploy good and bad versions, scale, roll back, delete, drain nodes; with retries.

The last word of each application is remembered: what was acknowledged, or may have been, is what the cluster must come
to. A change whose answer was lost counts as either, so it is repeated until it is known.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import grpc.aio

from serve_rt.credentials import control_channel
from serve_rt.errors import NotFoundError, ServeException
from serve_rt.model.ids import AppName, BlobDigest, DeploymentName, VersionId
from serve_rt.model.node import NodeMark
from serve_rt.model.resources import Resources
from serve_rt.model.spec import ApplicationSpec, AutoscalingOptions, DeploymentOptions, DeploymentSpec
from serve_rt.pb import control_pb2 as pb
from serve_rt.wire.errors import from_rpc_error
from serve_rt.wire.records import encode
from serve_rt.wire.services import Stub
from tests.simulation.agent import PORT
from tests.simulation.token import TOKEN

if TYPE_CHECKING:
    from tests.simulation.world import SimWorld

CALL_S = 30.0
NODE = "user"
NAME = DeploymentName("d")
Request = pb.DeployRequest | pb.DeleteRequest | pb.RollbackRequest | pb.MarkNodeRequest


@dataclass(frozen=True, slots=True)
class Wish:
    """What an application shall be."""

    specs: tuple[DeploymentSpec, ...] = ()
    """None with `gone`."""
    gone: bool = False
    restored: bool = False
    """By a rollback: what it was then is the cluster's to know."""

    def version(self, name: DeploymentName) -> str:
        return next((str(spec.version) for spec in self.specs if spec.name == name), "")


def deployment(
    version: str, replicas: int, milli_gpu: int = 0, name: DeploymentName = NAME, **options: object
) -> DeploymentSpec:
    resources = Resources(milli_cpu=500, milli_gpu=milli_gpu)
    known: dict[str, object] = {
        "num_replicas": replicas,
        "resources": resources,
        "graceful_shutdown_timeout_s": 5.0,
        "startup_timeout_s": 30.0,
        "progress_deadline_s": 40.0,
        "max_constructor_retry_count": 3,
        **options,
    }
    built = DeploymentOptions(**known)  # type: ignore[arg-type]  # options by name
    return DeploymentSpec(name, VersionId(version), BlobDigest("0" * 64), None, built)


def autoscaled(least: int, most: int) -> AutoscalingOptions:
    return AutoscalingOptions(
        min_replicas=least,
        max_replicas=most,
        target_ongoing_requests=1.0,
        look_back_period_s=4.0,
        upscale_delay_s=2.0,
        downscale_delay_s=8.0,
    )


class Users:
    """One person, one change at a time."""

    def __init__(self, world: SimWorld) -> None:
        self.world = world
        self.process = world.network.process("user", NODE)
        self.wishes: dict[str, Wish] = {}
        self.marks: dict[str, NodeMark] = {}
        self._deploys = 0
        self.busy = 0
        self._one_at_a_time = asyncio.Lock()

    # --- wishes ---------------------------------------------------------------------------------------------------

    def deploy(self, app: str, *specs: DeploymentSpec) -> asyncio.Task[None]:
        """The last one is the ingress."""
        self._deploys += 1
        record = ApplicationSpec(AppName(app), f"d{self._deploys}", specs[-1].name, specs, route_prefix=f"/{app}")
        request = pb.DeployRequest(application=encode(record))
        return self._begin("Deploy", request, app, lambda _: Wish(specs))

    def scale(self, app: str, replicas: int) -> asyncio.Task[None] | None:
        specs = self.wishes[app].specs if app in self.wishes else ()
        if not specs:
            return None
        last = specs[-1]
        return self.deploy(app, *specs[:-1], replace(last, options=replace(last.options, num_replicas=replicas)))

    def rollback(self, app: str) -> asyncio.Task[None]:
        self._deploys += 1
        request = pb.RollbackRequest(app=app, deploy_id=f"d{self._deploys}")
        return self._begin("Rollback", request, app, lambda wish: Wish(wish.specs, restored=True))

    def delete(self, app: str) -> asyncio.Task[None]:
        self._deploys += 1
        request = pb.DeleteRequest(app=app, deploy_id=f"delete {self._deploys}")
        return self._begin("Delete", request, app, lambda _: Wish(gone=True))

    def mark(self, node: str, mark: NodeMark) -> asyncio.Task[None]:
        request = pb.MarkNodeRequest(node_id=node, mark=mark.value)
        return self.process.start(self._mark(request, node, mark), name=f"mark {node}")

    async def _mark(self, request: pb.MarkNodeRequest, node: str, mark: NodeMark) -> None:
        await self._until_done("MarkNode", request)
        self.marks[node] = mark
        self.world.note("user", "MarkNode", node, mark.value)

    def _begin(self, method: str, request: Request, app: str, granted: Callable[[Wish], Wish]) -> asyncio.Task[None]:
        return self.process.start(self._ask(method, request, app, granted), name=f"{method} {app}")

    async def _ask(self, method: str, request: Request, app: str, granted: Callable[[Wish], Wish]) -> None:
        async with self._one_at_a_time:
            reply = await self._until_done(method, request)
            if reply is None:
                return
            wish = self.wishes[app] = granted(self.wishes.get(app, Wish(gone=True)))
            asked = [f"{spec.name}={spec.version}*{spec.options.num_replicas}" for spec in wish.specs]
            self.world.note("user", method, app, *asked)
            if wish.gone:
                self.world.deleted(app, reply.revision)

    # --- asking ---------------------------------------------------------------------------------------------------

    async def _until_done(self, method: str, request: Request) -> pb.ChangeReply | None:
        """None: it cannot be done."""
        self.busy += 1
        try:
            while True:
                try:
                    return await self._call(method, request)
                except NotFoundError:
                    self.world.happened[f"user cannot {method}"] += 1
                    return None
                except ServeException as error:
                    self.world.happened[f"user told {type(error).__name__}"] += 1
                    await asyncio.sleep(1.0)  # a person tries again
        finally:
            self.busy -= 1

    async def _call(self, method: str, request: Request) -> pb.ChangeReply:
        node = random.choice(sorted(self.world.machines))
        async with control_channel(f"{node}:{PORT}", TOKEN) as channel:
            stub = Stub(channel, pb.DESCRIPTOR.services_by_name["Agent"])
            try:
                reply: pb.ChangeReply = await getattr(stub, method)(request, timeout=CALL_S)
            except grpc.aio.AioRpcError as error:
                raise from_rpc_error(error, method) from error
        return reply
