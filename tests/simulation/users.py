"""What people do to the cluster: deploy good and bad versions, scale, delete; through any agent, with retries.

The last word of each application is remembered: what was acknowledged, or may have been, is what the cluster must come
to. A change whose answer was lost counts as either, so it is repeated until it is known.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import grpc.aio

from serve_rt.credentials import control_channel
from serve_rt.errors import ServeException
from serve_rt.model.ids import AppName, BlobDigest, DeploymentName, VersionId
from serve_rt.model.resources import Resources
from serve_rt.model.spec import ApplicationSpec, DeploymentOptions, DeploymentSpec
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


@dataclass(frozen=True, slots=True)
class Wish:
    """What an application shall be; `replicas` 0 with `gone` means deleted."""

    version: str
    replicas: int
    gone: bool = False


def deployment(version: str, replicas: int, milli_gpu: int = 0, **options: object) -> DeploymentSpec:
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
    return DeploymentSpec(NAME, VersionId(version), BlobDigest("0" * 64), None, built)


class Users:
    """One person, one change at a time."""

    def __init__(self, world: SimWorld) -> None:
        self.world = world
        self.process = world.network.process("user", NODE)
        self.wishes: dict[str, Wish] = {}
        self.specs: dict[str, DeploymentSpec] = {}
        self.since: dict[str, float] = {}
        self._deploys = 0
        self.busy = 0
        self._one_at_a_time = asyncio.Lock()

    def deploy(self, app: str, spec: DeploymentSpec) -> asyncio.Task[None]:
        self._deploys += 1
        record = ApplicationSpec(AppName(app), f"d{self._deploys}", NAME, (spec,), route_prefix=f"/{app}")
        request = pb.DeployRequest(application=encode(record))
        return self.process.start(self._ask("Deploy", request, app, spec), name=f"deploy {app}")

    def scale(self, app: str, replicas: int) -> asyncio.Task[None] | None:
        spec = self.specs.get(app)
        if spec is None:
            return None
        return self.deploy(app, replace(spec, options=replace(spec.options, num_replicas=replicas)))

    def delete(self, app: str) -> asyncio.Task[None]:
        request = pb.DeleteRequest(app=app, deploy_id=f"delete {self._deploys}")
        return self.process.start(self._ask("Delete", request, app, None), name=f"delete {app}")

    async def _ask(
        self, method: str, request: pb.DeployRequest | pb.DeleteRequest, app: str, spec: DeploymentSpec | None
    ) -> None:
        self.busy += 1
        async with self._one_at_a_time:
            self.since[app] = self.world.now
            while not await self._answered(method, request):  # noqa: ASYNC110 - a person tries again
                await asyncio.sleep(1.0)
            asked = (spec.version, spec.options.num_replicas) if spec is not None else ()
            self.world.note("user", method, app, *asked)
            self.since[app] = self.world.now
            self.wishes[app] = Wish(spec.version, spec.options.num_replicas) if spec else Wish("", 0, gone=True)
            self.specs.pop(app, None)
            if spec is not None:
                self.specs[app] = spec
        self.busy -= 1

    async def _answered(self, method: str, request: pb.DeployRequest | pb.DeleteRequest) -> bool:
        try:
            await self._call(method, request)
        except ServeException as error:
            self.world.happened[f"user told {type(error).__name__}"] += 1
            return False
        return True

    async def _call(self, method: str, request: pb.DeployRequest | pb.DeleteRequest) -> None:
        node = random.choice(sorted(self.world.machines))
        async with control_channel(f"{node}:{PORT}", TOKEN) as channel:
            stub = Stub(channel, pb.DESCRIPTOR.services_by_name["Agent"])
            try:
                await getattr(stub, method)(request, timeout=CALL_S)
            except grpc.aio.AioRpcError as error:
                raise from_rpc_error(error, method) from error
