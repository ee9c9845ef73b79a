"""The driver's side of an agent's calls: deploy, delete, status, nodes, logs, blobs. Values in, values out.

Lives on the driver's loop. A change is sent again, under the same deploy id, while no leader can be found; the agent
gives the first outcome to a second asking.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from serve_rt.aio import Backoff
from serve_rt.credentials import ClusterToken, control_channel
from serve_rt.errors import NoClusterError, ServeException, UnavailableError
from serve_rt.model.ids import BlobDigest
from serve_rt.model.node import NodeMark
from serve_rt.model.scaling import ScalingOverview
from serve_rt.model.spec import ApplicationSpec
from serve_rt.model.status import NodesOverview, ServeStatus
from serve_rt.pb import control_pb2 as pb
from serve_rt.wire import records
from serve_rt.wire.errors import from_rpc_error
from serve_rt.wire.services import Stub

CHANGE_TIMEOUT_S = 30.0
READ_TIMEOUT_S = 10.0
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Identity:
    cluster: str
    node_id: str
    http_address: str
    pid: int
    proxy_location: str = ""
    """Of the whole cluster; "" while the agent has not read it."""


class AgentClient:
    """*Resources*: the creator awaits `close`."""

    def __init__(self, address: str, token: ClusterToken) -> None:
        self.address = address
        self._channel = control_channel(address, token)
        self._stub = Stub(self._channel, pb.DESCRIPTOR.services_by_name["Agent"])

    async def identity(self) -> Identity:
        """*Errors*: NoClusterError when nobody answers."""
        try:
            reply = await self._ask("Identity", pb.IdentityRequest(), 5.0)
        except UnavailableError as error:
            raise NoClusterError(f"no agent answers at {self.address}: {error}") from error
        return Identity(reply.cluster, reply.node_id, reply.http_address, int(reply.pid), reply.proxy_location)

    async def put_blobs(self, blobs: Mapping[BlobDigest, bytes]) -> None:
        await asyncio.gather(*(self._put_blob(digest, data) for digest, data in blobs.items()))

    async def _put_blob(self, digest: BlobDigest, data: bytes) -> None:
        try:
            await self._stub.PutBlob(_chunks(digest, data), timeout=CHANGE_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, f"sending a blob to {self.address}") from error

    async def deploy(self, spec: ApplicationSpec, *, force: bool = False, if_absent: bool = False) -> None:
        """*Errors*: ConflictError when `if_absent` and there is one of that name."""
        request = pb.DeployRequest(application=records.encode(spec), force=force, if_absent=if_absent)
        await self._change("Deploy", request)

    async def deploy_together(self, specs: Sequence[ApplicationSpec], gone: Sequence[str]) -> None:
        """All of them or, when one is refused, none; applications in `gone` are deleted with it."""
        first, *more = (records.encode(spec) for spec in specs)
        await self._change("Deploy", pb.DeployRequest(application=first, more=more, gone=gone))

    async def delete(self, app: str, deploy_id: str) -> None:
        """Delete one application; "" deletes all."""
        await self._change("Delete", pb.DeleteRequest(app=app, deploy_id=deploy_id))

    async def rollback(self, app: str, to_version: int, deploy_id: str) -> tuple[int, ApplicationSpec]:
        """The version gone back to, and the record that asks for it. *Errors*: NotFoundError naming what there is."""
        request = pb.RollbackRequest(app=app, to_version=to_version, deploy_id=deploy_id)
        reply = await self._change("Rollback", request)
        return int(reply.version), records.decode(reply.application, ApplicationSpec, source="the rollback's answer")

    async def scale(self, app: str, deployment: str, num_replicas: int, deploy_id: str) -> None:
        """*Errors*: NotFoundError; ConfigError when the deployment is autoscaled."""
        request = pb.ScaleRequest(app=app, deployment=deployment, num_replicas=num_replicas, deploy_id=deploy_id)
        await self._change("Scale", request)

    async def mark_node(self, node_id: str, mark: NodeMark) -> None:
        await self._change("MarkNode", pb.MarkNodeRequest(node_id=node_id, mark=mark.value))

    async def autoscaling(self, app: str) -> ScalingOverview:
        """Of one application, of all for ""."""
        reply = await self._ask("Autoscaling", pb.AutoscalingRequest(app=app), CHANGE_TIMEOUT_S)
        return records.decode(reply.overview, ScalingOverview, source=f"autoscaling from {self.address}")

    async def status(self) -> ServeStatus:
        reply = await self._ask("Status", pb.StatusRequest(), READ_TIMEOUT_S)
        return records.decode(reply.status, ServeStatus, source=f"status from {self.address}")

    async def nodes(self) -> NodesOverview:
        reply = await self._ask("Nodes", pb.NodesRequest(), READ_TIMEOUT_S)
        return records.decode(reply.nodes, NodesOverview, source=f"nodes from {self.address}")

    async def metrics(self, timeout_s: float = READ_TIMEOUT_S) -> str:
        """The page of metrics of this agent's node, as Prometheus reads it."""
        reply = await self._ask("Metrics", pb.NodeMetricsRequest(gather=True), timeout_s)
        return bytes(reply.text).decode(errors="replace")

    async def leave(self, *, force: bool, drain_s: float) -> None:
        await self._ask("Leave", pb.LeaveRequest(force=force, drain_s=drain_s), READ_TIMEOUT_S + drain_s)

    async def logs(self, app: str, replica: str, tail_lines: int, *, follow: bool) -> AsyncIterator[tuple[str, bytes]]:
        """Pieces of logs, with the replica they come from."""
        request = pb.LogsRequest(app=app, replica=replica, tail_lines=tail_lines, follow=follow)
        try:
            async for chunk in self._stub.Logs(request):
                yield chunk.source, chunk.data
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, f"logs from {self.address}") from error

    async def _change(self, method: str, request: Any) -> Any:  # Any: messages differ by method
        """Ask until a leader has answered, at most CHANGE_TIMEOUT_S."""
        loop = asyncio.get_running_loop()
        give_up_at, backoff = loop.time() + CHANGE_TIMEOUT_S, Backoff(0.05, 1.0)
        while True:
            try:
                return await self._ask(method, request, max(0.1, give_up_at - loop.time()))
            except ServeException as error:
                pause_s = backoff.next_s()
                if not error.retryable or loop.time() + pause_s > give_up_at:
                    raise
            await asyncio.sleep(pause_s)

    async def _ask(self, method: str, request: Any, timeout_s: float) -> Any:
        try:
            return await getattr(self._stub, method)(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, f"{method} at {self.address}") from error

    async def close(self) -> None:
        await self._channel.close()


async def _chunks(digest: BlobDigest, data: bytes) -> AsyncIterator[pb.BlobChunk]:
    for start in range(0, max(1, len(data)), CHUNK_BYTES):
        yield pb.BlobChunk(digest=digest if start == 0 else "", data=data[start : start + CHUNK_BYTES])
