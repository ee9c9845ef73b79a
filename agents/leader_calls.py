"""Changes go to the leader, once: found in the mirror, waited for if there is none, asked again if it died under us.

Called by `api_server` for every change. Repeating is safe because every change carries a client-made deploy id:
the same id again gets the first outcome.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc.aio

from serve_rt.credentials import ClusterToken, control_channel
from serve_rt.errors import DeadlineExceededError, NotLeaderError, ServeException, UnavailableError
from serve_rt.model.cluster import LeaderRecord
from serve_rt.model.ids import NodeId
from serve_rt.pb import control_pb2 as pb
from serve_rt.store.mirror import Mirror
from serve_rt.wire.errors import from_rpc_error
from serve_rt.wire.services import Stub

log = logging.getLogger(__name__)
WAIT_FOR_LEADER_S = 15.0
CALL_S = 60.0
_PAUSE_S = 0.05


class LeaderCalls:
    def __init__(self, mirror: Mirror, token: ClusterToken) -> None:
        self._mirror = mirror
        self._token = token

    async def ask(self, method: str, request: Any) -> Any:
        """The leader's reply to `Controller.<method>`.

        *Errors*: what the leader raised; UnavailableError when none was there within WAIT_FOR_LEADER_S.
        """
        deadline = asyncio.get_running_loop().time() + WAIT_FOR_LEADER_S
        reason = "there is none"
        while True:
            leader = await self._leader(deadline, reason)
            try:
                return await self._call(leader.address, method, request)
            except NotLeaderError as error:
                reason = f"{leader.address} says it is not: {error}"
            except UnavailableError as error:
                reason = f"{leader.address} does not answer: {error}"
            if asyncio.get_running_loop().time() >= deadline:
                raise UnavailableError(_no_leader(reason))
            await asyncio.sleep(_PAUSE_S)

    async def metrics(self, node: NodeId, timeout_s: float) -> bytes:
        """The page of the leader when it is on this node: it stands on one page of the cluster; else empty."""
        leader = self._mirror.cluster.leader
        if leader is None or leader.node_id != node:
            return b""
        try:
            async with asyncio.timeout(timeout_s):
                reply = await self._call(leader.address, "Metrics", pb.NodeMetricsRequest())
        except (ServeException, TimeoutError):  # it ends, or is of a version that has no such page
            return b""
        text: bytes = reply.text
        return text

    async def _leader(self, deadline: float, reason: str) -> LeaderRecord:
        try:
            left_s = max(0.0, deadline - asyncio.get_running_loop().time())
            cluster = await self._mirror.wait_for(lambda cluster: cluster.leader is not None, left_s)
        except DeadlineExceededError as error:
            raise UnavailableError(_no_leader(reason)) from error
        assert cluster.leader is not None
        return cluster.leader

    async def _call(self, address: str, method: str, request: Any) -> Any:  # Any: messages differ by method
        async with control_channel(address, self._token) as channel:
            stub = Stub(channel, pb.DESCRIPTOR.services_by_name["Controller"])
            try:
                return await getattr(stub, method)(request, timeout=CALL_S)
            except grpc.aio.AioRpcError as error:
                translated: ServeException = from_rpc_error(error, f"{method} of the leader at {address}")
                raise translated from error


def _no_leader(reason: str) -> str:
    return (
        f"no controller leader took the change within {WAIT_FOR_LEADER_S:g} s ({reason}); nothing was changed by this "
        "agent: ask again when `serve status` shows a leader"
    )
