"""A proxy worker's page of metrics, and the way to the node's page.

The worker tells its page to the local agent every few seconds (each second while somebody watches), and at once when
somebody reads `/-/metrics` here: then the agent answers with the page of the whole node, its replicas and the other
workers included. Without an agent a reader gets this worker's own page.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable

import grpc.aio

from serve_rt.aio import TaskOwner
from serve_rt.credentials import ClusterToken, control_channel
from serve_rt.observe.exposition import counter, gauge, latency, text_of
from serve_rt.observe.request_counts import Labels, RequestCounts
from serve_rt.pb import control_pb2 as pb
from serve_rt.routing import FeedClient, Routers
from serve_rt.wire.services import Stub

log = logging.getLogger(__name__)
TELL_S = 5.0
GATHER_TIMEOUT_S = 3.0

_REQUEST = ("application", "route", "method", "status_code", "worker")
"""Labels of `RequestCounts` in a proxy, and the worker's name."""


class WorkerMetrics:
    """*Resources*: `start` once on the loop, then `close`."""

    def __init__(self, worker: str, counts: RequestCounts, begun: Callable[[], int], routers: Routers) -> None:
        self._worker, self._counts, self._routers = worker, counts, routers
        self._begun = begun
        """How many requests were taken; the counts have those that have ended."""
        self._tasks = TaskOwner("metrics")
        self._feed: FeedClient | None = None
        self._token: ClusterToken | None = None
        self._channel: grpc.aio.Channel | None = None
        self._address = ""

    def start(self, feed: FeedClient, token: ClusterToken) -> None:
        self._feed, self._token = feed, token
        self._tasks.start_eternal(self._tell_for_ever(), name="tell")

    async def close(self) -> None:
        await self._tasks.close()
        await self._hang_up()

    def text(self) -> bytes:
        """Off the loop: it loads prometheus-client the first time."""
        requests, errors = Counter[Labels](), Counter[Labels]()
        for key, series in list(self._counts.series.items()):
            requests[(*key, self._worker)] += series.count
            if _failed(key[-1]):
                errors[(*key, self._worker)] += series.count
        mine = (self._worker,)
        deployed = ("application", "deployment", "worker")
        demand = {(key.app, key.deployment, self._worker): both for key, both in self._routers.demand().items()}
        ejected: dict[tuple[str, ...], float] = {
            (key.app, key.deployment, reason, self._worker): float(count)
            for (key, reason), count in self._routers.ejected().items()
        }
        return text_of(
            [
                counter("serve_num_http_requests", "The number of HTTP requests processed.", _REQUEST, requests),
                counter(
                    "serve_num_http_error_requests",
                    "Answers of 400 and above, WebSockets cut.",
                    _REQUEST,
                    errors,
                ),
                latency(
                    "serve_http_request_latency_ms",
                    "The end-to-end latency of HTTP requests, from the proxy.",
                    _REQUEST,
                    self._counts,
                    mine,
                ),
                gauge(
                    "serve_num_ongoing_http_requests",
                    "Requests being served now.",
                    ("worker",),
                    {mine: max(0, self._begun() - self._counts.total)},
                ),
                gauge(
                    "serve_deployment_queued_queries",
                    "Queries that wait to be assigned to a replica.",
                    deployed,
                    {labels: float(queued) for labels, (queued, _) in demand.items()},
                ),
                gauge(
                    "serve_num_ongoing_requests_at_replicas",
                    "Requests that were submitted to replicas and have not ended.",
                    deployed,
                    {labels: float(ongoing) for labels, (_, ongoing) in demand.items()},
                ),
                gauge(
                    "serve_ejected_replicas",
                    "Replicas that this worker keeps out of rotation, and why.",
                    ("application", "deployment", "reason", "worker"),
                    ejected,
                ),
            ]
        )

    async def page(self) -> bytes:
        """Of the node."""
        text = await asyncio.to_thread(self.text)
        reply = await self._ask(text, gather=True)
        return reply.text if reply is not None else text

    async def _tell_for_ever(self) -> None:
        told, pause_s = -1, TELL_S
        while True:
            await asyncio.sleep(pause_s)
            if self._counts.total or told > 0:  # a worker that nobody uses need not load anything
                told = self._counts.total
                reply = await self._ask(await asyncio.to_thread(self.text), gather=False)
                pause_s = (reply.tell_every_s if reply is not None else 0.0) or TELL_S

    async def _ask(self, text: bytes, *, gather: bool) -> pb.NodeMetricsReply | None:
        """None when there is no agent now."""
        address = self._feed.agent if self._feed is not None else None
        if address is None or self._token is None:
            return None
        if self._channel is None or self._address != address:
            await self._hang_up()
            self._channel, self._address = control_channel(address, self._token), address
        stub = Stub(self._channel, pb.DESCRIPTOR.services_by_name["Agent"])
        request = pb.NodeMetricsRequest(reporter=self._worker, text=text, gather=gather)
        try:
            reply: pb.NodeMetricsReply = await stub.Metrics(request, timeout=GATHER_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            log.debug("metrics were not told: %s", error.details(), extra={"action": "metrics_not_told"})
            await self._hang_up()
            return None
        return reply

    async def _hang_up(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()


def _failed(status: str) -> bool:
    """An HTTP status, or the code a WebSocket was closed with (1005: the client gave none)."""
    return status not in ("1000", "1001", "1005") if len(status) == 4 else not status.startswith(("1", "2", "3"))
