"""The leader's streams to the agents: assignments out at once, observations in at once.

The store stays the memory: what is pushed was written there before, and an agent's own watch brings the same by another
road (with the protection PUSH off that road must do). What an agent reports here is fresher than the mirror, so the
loop plans on it. One link per registered agent session; a broken one is made anew while the agent is registered.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import replace

import grpc.aio

from serve_rt.aio import Backoff, Clock, TaskOwner
from serve_rt.controller.demand import NodeDemand, read_report
from serve_rt.credentials import ClusterToken, control_channel
from serve_rt.errors import ConfigError
from serve_rt.model.cluster import Cluster
from serve_rt.model.ids import NodeId, ReplicaId
from serve_rt.model.node import NodeRecord
from serve_rt.model.replica import Assignment, Observed
from serve_rt.pb import control_pb2 as pb
from serve_rt.wire.errors import from_rpc_error
from serve_rt.wire.records import decode, encode
from serve_rt.wire.services import Stub

log = logging.getLogger(__name__)


class Pusher:
    """All links of one term of leadership. *Resources*: `close()` ends them."""

    def __init__(
        self,
        token: ClusterToken,
        epoch: int,
        on_report: Callable[[], None],
        on_demand: Callable[[], None],
        on_deposed: Callable[[str], None],
        clock: Clock,
    ) -> None:
        self._token, self.epoch, self._clock = token, epoch, clock
        self._on_report, self._on_demand, self._on_deposed = on_report, on_demand, on_deposed
        self._links: dict[NodeId, _Link] = {}
        self._tasks = TaskOwner("pusher")

    def follow(self, cluster: Cluster) -> None:
        """Keep one link per registered agent and send each what changed for it."""
        for node, record in cluster.nodes.items():
            link = self._links.get(node)
            if link is None or (link.record.session, link.record.address) != (record.session, record.address):
                self._replace(node, record)
        for gone in self._links.keys() - cluster.nodes.keys():
            self._links.pop(gone).task.cancel()
        by_node: dict[NodeId, list[Assignment]] = {}
        for assignment in cluster.assignments.values():
            by_node.setdefault(assignment.node_id, []).append(assignment)
        for node, link in self._links.items():
            link.send(tuple(by_node.get(node, ())), cluster)

    def _replace(self, node: NodeId, record: NodeRecord) -> None:
        old = self._links.pop(node, None)
        if old is not None:
            old.task.cancel()
        link = _Link(record, self.epoch, self._clock)
        told = (self._on_report, self._on_demand, self._on_deposed)
        link.task = self._tasks.start(link.run(self._token, *told), name=f"link to {node}")
        self._links[node] = link

    @property
    def all_reported(self) -> bool:
        return all(link.reported is not None for link in self._links.values())

    def demand(self) -> dict[NodeId, NodeDemand]:
        """Each agent's last word; it stands while the stream is broken, and gets old."""
        return {node: link.demand for node, link in self._links.items() if link.demand is not None}

    def overlay(self, cluster: Cluster) -> Cluster:
        """The cluster with the agents' last words in place of older records."""
        speaking = {node: link for node, link in self._links.items() if link.reported is not None}
        spoken = {node: link.reported or {} for node, link in speaking.items()}
        applied = {node: link.applied for node, link in speaking.items()}
        return replace(overlay(cluster, spoken), applied=applied)

    async def close(self) -> None:
        await self._tasks.close()


def overlay(cluster: Cluster, spoken: dict[NodeId, dict[ReplicaId, Observed]]) -> Cluster:
    """For each node that speaks: its reports, and those records of an earlier session that it has not touched yet."""
    if not spoken:
        return cluster
    observed: dict[ReplicaId, Observed] = {}
    for replica, record in cluster.observed.items():
        reports = spoken.get(record.node_id)
        if reports is None:
            observed[replica] = record
        elif replica not in reports:
            registered = cluster.nodes.get(record.node_id)
            if registered is None or record.session != registered.session:  # a new agent that has not adopted it yet
                observed[replica] = record
        elif record.incarnation > reports[replica].incarnation or record == reports[replica]:
            observed[replica] = record  # what is as the store says stays that very value: it has not changed
    for node, reports in spoken.items():
        if node in cluster.nodes:
            observed.update((replica, report) for replica, report in reports.items() if replica not in observed)
    return cluster if observed == cluster.observed else replace(cluster, observed=observed)


class _Link:
    """One stream to one agent's session."""

    task: asyncio.Task[None]

    def __init__(self, record: NodeRecord, epoch: int, clock: Clock) -> None:
        self.record = record
        self.demand: NodeDemand | None = None
        self.reported: dict[ReplicaId, Observed] | None = None
        """What the agent said on the stream that is open now; None while there is none."""
        self.applied = 0
        """Up to which revision the agent has read its assignments."""
        self._epoch, self._clock = epoch, clock
        self._due: pb.AssignPush | None = None
        self._wake = asyncio.Event()
        self._sent: tuple[str, tuple[Assignment, ...]] | None = None

    def send(self, assignments: tuple[Assignment, ...], cluster: Cluster) -> None:
        """Only the newest word counts, so a slow agent is owed one push, however much has changed."""
        if self._sent == (cluster.incarnation, assignments):
            return
        self._sent = (cluster.incarnation, assignments)
        self._due = pb.AssignPush(
            epoch=self._epoch,
            incarnation=cluster.incarnation,
            mod_revision=cluster.revision,
            assignments=[encode(assignment) for assignment in assignments],
        )
        self._wake.set()

    async def run(
        self,
        token: ClusterToken,
        on_report: Callable[[], None],
        on_demand: Callable[[], None],
        on_deposed: Callable[[str], None],
    ) -> None:
        """Speak until cancelled, over as many streams as it takes."""
        backoff = Backoff(0.05, 2.0)
        while True:
            async with control_channel(self.record.address, token) as channel:
                try:
                    async for report in Stub(channel, pb.DESCRIPTOR.services_by_name["Agent"]).Assign(self._pushes()):
                        backoff.reset()
                        if self._take(report, on_deposed):
                            on_report()
                        if self._take_demand(report):
                            on_demand()
                except grpc.aio.AioRpcError as error:
                    reason = from_rpc_error(error, f"the stream to agent {self.record.node_id}")
                    level = logging.DEBUG if self.reported is None else logging.INFO  # once, not at each attempt
                    log.log(level, "%s", reason, extra={"action": "push_broken", "node": self.record.node_id})
            self.reported = None
            on_report()
            await asyncio.sleep(backoff.next_s())

    async def _pushes(self) -> AsyncIterator[pb.AssignPush]:
        """On a new stream the newest word is said again: the former stream may have lost it."""
        said: pb.AssignPush | None = None
        while True:
            if self._due is not None and self._due is not said:
                said = self._due
                yield said
                continue
            self._wake.clear()
            await self._wake.wait()

    def _take(self, report: pb.AssignReport, on_deposed: Callable[[str], None]) -> bool:
        """Whether anything is new: agents also report once a second just to show that they live."""
        if report.refused or report.highest_epoch > self._epoch:
            on_deposed(f"agent {self.record.node_id} has heard of epoch {report.highest_epoch}, ours is {self._epoch}")
        before, read_before = self.reported, self.applied
        known = before or {}
        said = {observed.replica_id: observed for observed in _observations(report.observed)}
        # What is said again stays the value that it was: who looks for changes looks for other values.
        self.reported = {r: known[r] if known.get(r) == observed else observed for r, observed in said.items()}
        self.applied = report.applied_revision
        pushed = self._due.mod_revision if self._due is not None else 0
        return self.reported != before or read_before < pushed <= self.applied

    def _take_demand(self, report: pb.AssignReport) -> bool:
        """Whether it differs from the last word; the same again only shows that it still holds."""
        before = (self.demand.counts, self.demand.tallies) if self.demand is not None else ({}, {})
        self.demand = read_report(report, self._clock.monotonic())
        return (self.demand.counts, self.demand.tallies) != before


def _observations(records: Iterable[bytes]) -> Iterable[Observed]:
    for record in records:
        try:
            yield decode(record, Observed, source="an agent's report")
        except ConfigError as error:
            log.error("a report is skipped: %s", error, extra={"action": "report_skipped"})
