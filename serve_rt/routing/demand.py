"""Tells the local agent how many requests this process has queued and running, per deployment, for the autoscaler.

A level, not an event: repeated each second while there is any, then once empty; at once when a request finds no replica
at all, because somebody waits for the first one. It goes to the agent whose feed is followed. How the requests of
guarded deployments go is told with it, and at once when they fail. Nothing on the request path waits for it; a reading
that cannot be delivered is made anew a second later.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Mapping

import grpc.aio

from serve_rt.aio import TaskOwner
from serve_rt.credentials import ClusterToken, control_channel
from serve_rt.model.ids import DeploymentKey
from serve_rt.pb import control_pb2 as pb
from serve_rt.routing.feed import FeedClient
from serve_rt.routing.routers import Routers
from serve_rt.wire.services import Stub

log = logging.getLogger(__name__)
REPEAT_S = 1.0
FIRST_RETRY_S = 0.1
SAMPLES = 10
REPORT_TIMEOUT_S = 2.0


class DemandReporter:
    """*Resources*: `start` once on the loop, then `close`, before the feed is closed."""

    def __init__(self, routers: Routers, feed: FeedClient, token: ClusterToken) -> None:
        self._routers, self._feed, self._token = routers, feed, token
        self._tasks = TaskOwner("demand")
        self._starved = asyncio.Event()
        self._told: frozenset[DeploymentKey] = frozenset()
        """Deployments whose demand the agent knows of."""
        self._tallied = False
        self._seq = itertools.count(time.monotonic_ns())  # above those of a former reporter of this process
        self._samples: list[dict[DeploymentKey, tuple[int, int]]] = []
        self._channel: grpc.aio.Channel | None = None
        self._address = ""

    def start(self) -> None:
        self._routers.on_starved = self._on_starved
        self._routers.on_errors = self._starved.set
        self._tasks.start_eternal(self._report_for_ever(), name="report")

    async def close(self) -> None:
        self._routers.on_starved = self._routers.on_errors = None
        await self._tasks.close()
        await self._hang_up()

    def _on_starved(self, key: DeploymentKey) -> None:
        if key not in self._told:
            self._starved.set()

    async def _report_for_ever(self) -> None:
        while True:
            delivered = await self._report()
            await self._pause(REPEAT_S if delivered else FIRST_RETRY_S)

    async def _pause(self, seconds: float) -> None:
        """Samples meanwhile: one look a second can miss a steady load again and again, when both keep step."""
        for _ in range(SAMPLES):
            try:
                async with asyncio.timeout(seconds / SAMPLES):
                    await self._starved.wait()
                    break
            except TimeoutError:
                self._samples.append(self._routers.demand())
        self._starved.clear()

    def _level(self) -> dict[DeploymentKey, tuple[int, int]]:
        """The mean of the samples since the last report, and at least one where there was any demand at all."""
        samples, self._samples = [*self._samples, self._routers.demand()], []
        seen = {key for sample in samples for key in sample}
        level: dict[DeploymentKey, tuple[int, int]] = {}
        for key in seen:
            counts = [sample.get(key, (0, 0)) for sample in samples]
            queued, ongoing = (round(sum(part) / len(samples)) for part in zip(*counts, strict=True))
            some = max(sum(part) for part in counts)
            waits = counts[-1][0] > 0 and queued + ongoing == 0
            level[key] = (queued, ongoing) if queued + ongoing or not some else (int(waits), int(not waits))
        return level

    async def _report(self) -> bool:
        """False: there is something to say and nobody heard it."""
        counts, tallies = self._level(), self._tallies()
        if not counts and not self._told and not tallies and not self._tallied:
            return True
        address = self._feed.agent
        if address is None:
            return False
        try:
            await (await self._stub(address)).ReportDemand(self._reading(counts, tallies), timeout=REPORT_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            log.debug("the demand was not reported: %s", error.details(), extra={"action": "demand_not_reported"})
            await self._hang_up()
            return False
        self._told, self._tallied = frozenset(counts), bool(tallies)
        return True

    def _tallies(self) -> list[pb.VersionTally]:
        return [
            pb.VersionTally(
                app=key.app,
                deployment=key.deployment,
                version=version,
                answered=tally.answered,
                errors=tally.errors,
                latencies=tally.latencies,
            )
            for key, versions in self._routers.tallies().items()
            for version, tally in versions.items()
        ]

    def _reading(
        self, counts: Mapping[DeploymentKey, tuple[int, int]], tallies: list[pb.VersionTally]
    ) -> pb.DemandReport:
        entries = [
            pb.DemandEntry(app=key.app, deployment=key.deployment, queued=queued, ongoing=ongoing)
            for key, (queued, ongoing) in counts.items()
        ]
        return pb.DemandReport(reporter=self._feed.subscriber, seq=next(self._seq), entries=entries, tallies=tallies)

    async def _stub(self, address: str) -> Stub:
        if self._channel is None or self._address != address:
            await self._hang_up()
            self._channel, self._address = control_channel(address, self._token), address
        return Stub(self._channel, pb.DESCRIPTOR.services_by_name["Agent"])

    async def _hang_up(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()
