"""The agent's line to one incarnation of one replica: its reports come in, pings and orders go out.

Made by `keeper` as soon as the process exists. It waits until the port listens, checks that the one who answers is the
replica meant (ports are reused), and watches until closed; a broken watch is taken up again, because a frozen replica
may thaw. It judges nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio

from serve_rt.aio import Backoff, TaskOwner
from serve_rt.credentials import ClusterToken, control_channel
from serve_rt.errors import ServeException, UnavailableError
from serve_rt.model.ids import ReplicaId
from serve_rt.model.replica import Assignment
from serve_rt.pb import replica_pb2 as pb
from serve_rt.wire import records
from serve_rt.wire.errors import from_rpc_error
from serve_rt.wire.services import Stub

log = logging.getLogger(__name__)
_LISTEN_POLL_S = 0.003
_CALL_S = 5.0


class ReplicaLink:
    """*Resources*: the maker awaits `close()`."""

    def __init__(
        self,
        host: str,
        port: int,
        replica: ReplicaId,
        incarnation: int,
        token: ClusterToken,
        on_report: Callable[[pb.ReplicaReport], None],
    ) -> None:
        self._host, self._port = host, port
        self._replica, self._incarnation = replica, incarnation
        self._token = token
        self._on_report = on_report
        self._tasks = TaskOwner(f"link to {replica}.{incarnation}")
        self._channel: grpc.aio.Channel | None = None
        self._stub: Stub | None = None
        self.broken = asyncio.Event()
        """The watch broke off at least once: every report sent before is here."""

    def start(self) -> None:
        self._tasks.start(self._watch_for_ever(), name="watch")

    async def ping(self, timeout_s: float) -> pb.PingReply:
        reply: pb.PingReply = await self._call("Ping", pb.PingRequest(), timeout_s)
        return reply

    async def check_health(self, timeout_s: float) -> pb.CheckHealthReply:
        reply: pb.CheckHealthReply = await self._call("CheckHealth", pb.CheckHealthRequest(), timeout_s)
        return reply

    async def reconfigure(self, assignment: Assignment, user_config_json: str | None) -> str:
        """What of `assignment` can change under a running process; a user_config only when it is another one.

        The error's text, "" when it took the new configuration.
        """
        options, rank = assignment.spec.options, assignment.rank
        request = pb.ReconfigureRequest(
            user_config_json=user_config_json or "",
            has_user_config=user_config_json is not None,
            max_ongoing_requests=options.max_ongoing_requests,
            logging_json=records.encode(options.logging).decode(),
            world_size=assignment.world_size,
            rank=rank.rank,
            node_rank=rank.node_rank,
            local_rank=rank.local_rank,
        )
        reply: pb.ReconfigureReply = await self._call("Reconfigure", request, options.startup_timeout_s)
        return reply.error

    async def drain(self, timeout_s: float) -> None:
        await self._call("Drain", pb.DrainRequest(timeout_s=timeout_s), _CALL_S)

    async def dump_stacks(self) -> str:
        reply: pb.DumpStacksReply = await self._call("DumpStacks", pb.DumpStacksRequest(), 2.0)
        return reply.text

    async def metrics(self, timeout_s: float) -> bytes:
        reply: pb.MetricsReply = await self._call("Metrics", pb.MetricsRequest(), timeout_s)
        return reply.text

    async def close(self) -> None:
        await self._tasks.close()
        channel, self._channel, self._stub = self._channel, None, None
        if channel is not None:
            await channel.close()

    async def _call(self, method: str, request: object, timeout_s: float) -> Any:  # Any: messages differ by method
        if self._stub is None:
            raise UnavailableError(f"replica {self._replica} does not listen yet")
        try:
            return await getattr(self._stub, method)(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, f"{method} of replica {self._replica}") from error

    async def _watch_for_ever(self) -> None:
        await self._listening()
        self._channel = control_channel(f"{self._host}:{self._port}", self._token)
        self._stub = Stub(self._channel, pb.DESCRIPTOR.services_by_name["Replica"])
        backoff = Backoff(0.05, 1.0)
        while True:
            try:
                async for report in self._stub.Watch(pb.WatchRequest()):
                    backoff.reset()
                    self._take(report)
            except grpc.aio.AioRpcError as error:
                log.debug("watch of %s broke: %s", self._replica, error.code())
            self.broken.set()
            await asyncio.sleep(backoff.next_s())

    async def _listening(self) -> None:
        """Return once somebody listens: asking gRPC earlier would cost its reconnect back-off.

        Whoever listens is checked by its first report; the end of the process closes this link.
        """
        while True:
            try:
                _, writer = await asyncio.open_connection(self._host, self._port)
            except OSError:
                await asyncio.sleep(_LISTEN_POLL_S)
                continue
            writer.close()
            return

    def _take(self, report: pb.ReplicaReport) -> None:
        if (report.replica_id, report.incarnation) != (self._replica, self._incarnation):
            log.warning(
                "%s answers at the port of %s.%s: ignored",
                f"{report.replica_id}.{report.incarnation}",
                self._replica,
                self._incarnation,
                extra={"action": "stranger_at_port"},
            )
            return
        try:
            self._on_report(report)
        except ServeException:  # an illegal move is our bug; it must not end the watch
            log.exception("report of %s", self._replica, extra={"action": "report_refused"})
