"""The `Replica` service: what a replica answers its agent. Everything here is answered by the main loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

from serve_rt.api.replica_context import ReplicaRank
from serve_rt.handle.runtime import HandleRuntime
from serve_rt.model.spec import LoggingOptions
from serve_rt.pb import replica_pb2 as pb
from serve_rt.replica.dispatch import Dispatch
from serve_rt.replica.exposition import Exposition
from serve_rt.replica.lifecycle import Lifecycle
from serve_rt.replica.reports import Report
from serve_rt.replica.stacks import stacks
from serve_rt.replica.user_loop import UserLoop
from serve_rt.transport.server import StreamService
from serve_rt.wire import records

Context = grpc.aio.ServicerContext[Any, Any]  # Any: grpc's own parameters


class ReplicaService:
    def __init__(
        self,
        lifecycle: Lifecycle,
        dispatch: Dispatch,
        user_loop: UserLoop,
        streams: StreamService,
        calls: HandleRuntime,
        exposition: Exposition,
    ) -> None:
        self._lifecycle = lifecycle
        self._dispatch = dispatch
        self._user_loop = user_loop
        self._streams = streams
        self._calls = calls
        self._exposition = exposition

    async def watch(self, _request: pb.WatchRequest, _context: Context) -> AsyncIterator[pb.ReplicaReport]:
        self._lifecycle.agent_seen()
        async for report in self._lifecycle.reports.watch():
            yield _to_pb(report)

    async def ping(self, _request: pb.PingRequest, _context: Context) -> pb.PingReply:
        self._lifecycle.agent_seen()
        calls_queued, calls_ongoing = self._calls.in_flight()
        return pb.PingReply(
            user_loop_age_s=self._user_loop.age_s,
            ongoing=self._dispatch.ongoing,
            queued=self._dispatch.waiting,
            phase=pb.ReplicaPhase.Name(self._lifecycle.reports.phase.value),
            slots_taken=self._streams.ongoing,
            calls_queued=calls_queued,
            calls_ongoing=calls_ongoing,
            autoscaling_stats=self._lifecycle.autoscaling_stats.latest,
        )

    async def check_health(self, _request: pb.CheckHealthRequest, _context: Context) -> pb.CheckHealthReply:
        health = await self._lifecycle.check_health()
        return pb.CheckHealthReply(healthy=health.healthy, skipped=health.skipped, message=health.message)

    async def reconfigure(self, request: pb.ReconfigureRequest, _context: Context) -> pb.ReconfigureReply:
        user_config_json = request.user_config_json if request.has_user_config else None
        options = records.decode(request.logging_json.encode(), LoggingOptions) if request.logging_json else None
        rank = ReplicaRank(request.rank, request.node_rank, request.local_rank) if request.world_size else None
        error = await self._lifecycle.reconfigure(
            user_config_json, request.max_ongoing_requests, options, rank, request.world_size
        )
        return pb.ReconfigureReply(error=error)

    async def drain(self, request: pb.DrainRequest, _context: Context) -> pb.DrainReply:
        self._lifecycle.ask_drain(request.timeout_s if request.timeout_s > 0 else None)
        return pb.DrainReply()

    async def dump_stacks(self, _request: pb.DumpStacksRequest, _context: Context) -> pb.DumpStacksReply:
        loop = self._user_loop
        return pb.DumpStacksReply(text=stacks(loop.loop, loop.thread_id))

    async def metrics(self, _request: pb.MetricsRequest, _context: Context) -> pb.MetricsReply:
        return pb.MetricsReply(
            text=await asyncio.to_thread(self._exposition.text, dict(self._calls.calls), self._calls.demand())
        )


def _to_pb(report: Report) -> pb.ReplicaReport:
    return pb.ReplicaReport(
        replica_id=report.replica_id,
        incarnation=report.incarnation,
        phase=pb.ReplicaPhase.Name(report.phase.value),
        message=report.message,
        constructor_imports=report.constructor_imports,
        constructor_s=report.constructor_s,
        pid=report.pid,
        docs_path=report.docs_path,
    )
