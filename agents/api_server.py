"""The Agent service: what drivers, the CLI, proxies, other agents and the leader ask of this node.

Changes are forwarded once to the leader (`leader_calls`); reads are answered from the mirror, with its age; the
leader's stream (`assign`) is one of the two roads of the supervisor's input.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import grpc.aio

from serve_rt.agents.blobs import BlobStore, push_blob
from serve_rt.agents.demand import DemandBook
from serve_rt.agents.feed import Feed
from serve_rt.agents.intake import Answer, Reading
from serve_rt.agents.launcher_link import LauncherLink
from serve_rt.agents.leader_calls import LeaderCalls
from serve_rt.agents.metrics import REPLICA_TIMEOUT_S, MetricsBook
from serve_rt.agents.node import ThisNode
from serve_rt.agents.observations import Observations
from serve_rt.agents.replica_logs import Follower
from serve_rt.agents.supervisor import Supervisor
from serve_rt.agents.version import software
from serve_rt.aio import Clock, TaskOwner, cancel_and_wait
from serve_rt.config.protections import Protection, enabled
from serve_rt.controller.status import build_nodes, build_status
from serve_rt.credentials import control_channel
from serve_rt.errors import ConfigError, NotFoundError, ServeException, UnavailableError
from serve_rt.model.ids import BlobDigest
from serve_rt.model.replica import Assignment
from serve_rt.pb import control_pb2 as pb
from serve_rt.store.mirror import Mirror
from serve_rt.wire import records
from serve_rt.wire.errors import from_rpc_error
from serve_rt.wire.services import Stub

log = logging.getLogger(__name__)
COPIES = 3
"""A blob is on so many agents, if there are so many, before its deploy is acknowledged."""
_REPORT_EVERY_S = 1.0

Context = grpc.aio.ServicerContext[Any, Any]


class AgentService:
    """Methods are named after the RPCs of control.proto's service Agent."""

    def __init__(
        self,
        node: ThisNode,
        mirror: Mirror,
        leader: LeaderCalls,
        feed: Feed,
        blobs: BlobStore,
        supervisor: Supervisor,
        observations: Observations,
        launcher: LauncherLink,
        leave: Callable[[bool, float], str],
        restart_proxies: Callable[[], Any],
        clock: Clock,
        http_address: Callable[[], str] = lambda: "",
    ) -> None:
        self._node, self._mirror, self._leader, self._feed = node, mirror, leader, feed
        self._blobs, self._supervisor, self._observations = blobs, supervisor, observations
        self._launcher = launcher
        self._leave = leave
        self._restart_proxies = restart_proxies
        self._clock = clock
        self._http_address = http_address
        self._demand = DemandBook(clock.monotonic())
        self._metrics = MetricsBook()

    # --- changes --------------------------------------------------------------------------------------------------

    async def deploy(self, request: pb.DeployRequest, context: Context) -> pb.ChangeReply:
        _refuse_second_forward(request.forwarded)
        request.forwarded = True
        reply: pb.ChangeReply = await self._leader.ask("Deploy", request)
        return reply

    async def delete(self, request: pb.DeleteRequest, context: Context) -> pb.ChangeReply:
        _refuse_second_forward(request.forwarded)
        request.forwarded = True
        reply: pb.ChangeReply = await self._leader.ask("Delete", request)
        return reply

    async def rollback(self, request: pb.RollbackRequest, context: Context) -> pb.ChangeReply:
        _refuse_second_forward(request.forwarded)
        request.forwarded = True
        reply: pb.ChangeReply = await self._leader.ask("Rollback", request)
        return reply

    async def scale(self, request: pb.ScaleRequest, context: Context) -> pb.ChangeReply:
        _refuse_second_forward(request.forwarded)
        request.forwarded = True
        reply: pb.ChangeReply = await self._leader.ask("Scale", request)
        return reply

    async def mark_node(self, request: pb.MarkNodeRequest, context: Context) -> pb.ChangeReply:
        _refuse_second_forward(request.forwarded)
        request.forwarded = True
        reply: pb.ChangeReply = await self._leader.ask("MarkNode", request)
        return reply

    async def autoscaling(self, request: pb.AutoscalingRequest, context: Context) -> pb.AutoscalingReply:
        """A read that only the leader can answer: demand and timers are in its memory."""
        _refuse_second_forward(request.forwarded)
        request.forwarded = True
        reply: pb.AutoscalingReply = await self._leader.ask("Autoscaling", request)
        return reply

    # --- reads ----------------------------------------------------------------------------------------------------

    async def status(self, request: pb.StatusRequest, context: Context) -> pb.StatusReply:
        self._need_store()
        status = build_status(self._mirror.cluster, self._clock.wall(), self._mirror.age_s)
        if request.app:
            if request.app not in status.applications:
                raise NotFoundError(f"there is no application {request.app!r}")
            status = replace(status, applications={request.app: status.applications[request.app]})
        return pb.StatusReply(status=records.encode(status))

    async def nodes(self, request: pb.NodesRequest, context: Context) -> pb.NodesReply:
        self._need_store()
        overview = build_nodes(self._mirror.cluster)
        word = await self._launcher.state_word()
        nodes = tuple(replace(n, launcher=word) if n.node_id == self._node.node_id else n for n in overview.nodes)
        return pb.NodesReply(nodes=records.encode(replace(overview, nodes=nodes)))

    async def identity(self, request: pb.IdentityRequest, context: Context) -> pb.IdentityReply:
        return pb.IdentityReply(
            cluster=self._node.cluster,
            node_id=self._node.node_id,
            session=self._node.session,
            boot_id=self._node.boot_id,
            software=software(),
            pid=os.getpid(),
            http_address=self._http_address(),
            launcher=await self._launcher.state_word(),
            proxy_location=proxy.location if (proxy := self._mirror.cluster.proxy) is not None else "",
        )

    def _need_store(self) -> None:
        if not self._mirror.synced.is_set():
            raise UnavailableError(
                f"this agent has not heard of etcd ({', '.join(self._node.etcd.endpoints)}) since its start"
            )

    # --- routes ---------------------------------------------------------------------------------------------------

    async def feed(self, request: pb.FeedRequest, context: Context) -> AsyncIterator[pb.FeedUpdate]:
        self._demand.joined(request.subscriber)
        try:
            async for table in self._feed.subscribe():
                yield pb.FeedUpdate(table=table)
        finally:
            self._demand.left(request.subscriber, self._clock.monotonic())

    async def report_demand(self, request: pb.DemandReport, context: Context) -> pb.DemandReply:
        self._demand.take(request, self._clock.monotonic())
        return pb.DemandReply()

    async def metrics(self, request: pb.NodeMetricsRequest, context: Context) -> pb.NodeMetricsReply:
        now = self._clock.monotonic()
        self._metrics.take(request.reporter, request.text, now)
        if not request.gather:
            return pb.NodeMetricsReply(tell_every_s=self._metrics.tell_every_s(now))
        asked = [keeper.metrics(REPLICA_TIMEOUT_S) for keeper in self._supervisor.keepers()]
        leading = self._leader.metrics(self._node.node_id, REPLICA_TIMEOUT_S)
        return pb.NodeMetricsReply(text=await self._metrics.page([leading, *asked], now))

    # --- blobs ----------------------------------------------------------------------------------------------------

    async def put_blob(self, request: AsyncIterator[pb.BlobChunk], context: Context) -> pb.PutBlobReply:
        first = await anext(aiter(request), None)
        if first is None:
            raise ConfigError("a blob needs at least one chunk with its digest")
        digest = BlobDigest(first.digest)
        existed = await self._blobs.put(digest, _payloads(first, request))
        if not first.local_only:
            await self._give_copies(digest)
        return pb.PutBlobReply(existed=existed)

    async def get_blob(self, request: pb.GetBlobRequest, context: Context) -> AsyncIterator[pb.BlobChunk]:
        digest = BlobDigest(request.digest)
        if not request.local_only:
            await self._blobs.ensure(digest)
        async for chunk in self._blobs.read(digest):
            yield pb.BlobChunk(digest=digest, data=chunk)

    async def _give_copies(self, digest: BlobDigest) -> None:
        """Best effort here; whether enough agents hold it, the leader sees under `/blobs`."""
        cluster = self._mirror.cluster
        holders = cluster.blobs.get(digest, frozenset())
        others = [n.address for n in cluster.nodes.values() if n.node_id not in {*holders, self._node.node_id}]
        wanted = max(0, COPIES - 1 - len(holders - {self._node.node_id}))
        pushes = (self._push(address, digest) for address in others[:wanted])
        await asyncio.gather(*pushes)

    async def _push(self, address: str, digest: BlobDigest) -> None:
        try:
            await push_blob(address, self._node.token, digest, self._blobs.read(digest))
        except ServeException as error:
            log.warning("no copy of %s at %s: %s", digest[:12], address, error, extra={"action": "blob_not_copied"})

    # --- logs -----------------------------------------------------------------------------------------------------

    async def logs(self, request: pb.LogsRequest, context: Context) -> AsyncIterator[pb.LogsChunk]:
        queue: asyncio.Queue[pb.LogsChunk | None] = asyncio.Queue(64)
        readers = [asyncio.create_task(self._read_local_logs(request, queue), name="logs: local")]
        if not request.local_only:
            for record in self._mirror.cluster.nodes.values():
                if record.node_id != self._node.node_id:
                    reading = _read_remote_logs(record.address, self._node, request, queue)
                    readers.append(asyncio.create_task(reading, name=f"logs: {record.node_id}"))
        try:
            left = len(readers)
            while left:
                chunk = await queue.get()
                if chunk is None:
                    left -= 1
                else:
                    yield chunk
        finally:
            await cancel_and_wait(*readers)

    async def _read_local_logs(self, request: pb.LogsRequest, queue: asyncio.Queue[pb.LogsChunk | None]) -> None:
        try:
            follower = Follower(self._node.state, request.app, request.replica, request.tail_lines)
            async for source, data in follower.chunks(follow=request.follow):
                await queue.put(pb.LogsChunk(source=source, data=data))
        finally:
            await queue.put(None)

    # --- the leader's stream --------------------------------------------------------------------------------------

    async def assign(self, request: AsyncIterator[pb.AssignPush], context: Context) -> AsyncIterator[pb.AssignReport]:
        """Takes what the leader pushes; reports at each change, and once a second to show that we live."""
        if not enabled(Protection.PUSH):
            raise UnavailableError("pushing is switched off on this agent (SERVE_TEST_DISABLE)")
        tasks = TaskOwner("assign stream")
        outbox = _Outbox()
        tasks.start(self._take_pushes(request, outbox), name="pushes")
        tasks.start(_wake_at_each(self._observations.news(), outbox), name="news")
        tasks.start(_wake_at_each(self._demand.news(), outbox), name="demand")
        try:
            while not outbox.closed:
                yield self._report(refused=outbox.refused)
                # The refused leader ends the stream: a status of ours could overtake the report (grpc.aio drops what
                # is unread when the status comes).
                await outbox.wait(_REPORT_EVERY_S)
        finally:
            await tasks.close()

    async def _take_pushes(self, pushes: AsyncIterator[pb.AssignPush], outbox: _Outbox) -> None:
        try:
            async for push in pushes:
                assignments = tuple(records.decode(a, Assignment, source="pushed assignment") for a in push.assignments)
                reading = Reading(push.incarnation, push.mod_revision, push.epoch, assignments, pushed=True)
                outbox.refused |= self._supervisor.apply(reading) is Answer.FENCED
                outbox.wake()
        finally:
            outbox.closed = True
            outbox.wake()

    def _report(self, *, refused: bool) -> pb.AssignReport:
        seen = self._supervisor.high_water
        now = self._clock.monotonic()
        return pb.AssignReport(
            highest_epoch=seen.epoch,
            applied_revision=seen.revision,
            observed=[records.encode(observed) for observed in self._supervisor.observed().values()],
            refused=refused,
            demand=self._demand.readings(now),
            demand_complete=self._demand.complete(now),
            stats=[
                pb.ReplicaStats(replica_id=keeper.replica_id, values=keeper.autoscaling_stats)
                for keeper in self._supervisor.keepers()
                if keeper.autoscaling_stats
            ],
        )

    # --- the node -------------------------------------------------------------------------------------------------

    async def leave(self, request: pb.LeaveRequest, context: Context) -> pb.LeaveReply:
        refused = self._leave(request.force, request.drain_s)
        if refused:
            raise ConfigError(refused)
        return pb.LeaveReply()

    async def restart_proxies(self, request: pb.RestartProxiesRequest, context: Context) -> pb.RestartProxiesReply:
        return pb.RestartProxiesReply(replaced=await self._restart_proxies())


class _Outbox:
    """What the sending half of an Assign stream waits for."""

    def __init__(self) -> None:
        self.refused = False
        self.closed = False
        self._event = asyncio.Event()

    def wake(self) -> None:
        self._event.set()

    async def wait(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            pass
        self._event.clear()


async def _wake_at_each(news: AsyncIterator[None], outbox: _Outbox) -> None:
    async for _ in news:
        outbox.wake()


def _refuse_second_forward(forwarded: bool) -> None:
    if forwarded:
        raise UnavailableError("the change was forwarded once already: agents forward to the leader, not to each other")


async def _payloads(first: pb.BlobChunk, rest: AsyncIterator[pb.BlobChunk]) -> AsyncIterator[bytes]:
    yield first.data
    async for chunk in rest:
        yield chunk.data


async def _read_remote_logs(
    address: str, node: ThisNode, request: pb.LogsRequest, queue: asyncio.Queue[pb.LogsChunk | None]
) -> None:
    asked = pb.LogsRequest()
    asked.CopyFrom(request)
    asked.local_only = True
    try:
        async with control_channel(address, node.token) as channel:
            stub = Stub(channel, pb.DESCRIPTOR.services_by_name["Agent"])
            async for chunk in stub.Logs(asked):
                await queue.put(chunk)
    except grpc.aio.AioRpcError as error:
        reason = from_rpc_error(error, f"logs of {address}")
        await queue.put(pb.LogsChunk(source=address, data=f"(no logs: {reason})\n".encode()))
    finally:
        await queue.put(None)
