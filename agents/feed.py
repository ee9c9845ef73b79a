"""Routes for everyone on this node: the leader's word, corrected by what the agent itself can see.

`build_table` is pure. A local replica known dead leaves the table at once, without the leader and without etcd; one
that the agent restarted comes back with its new incarnation when it is READY. `Feed` keeps the last table on disk, so
that a proxy starts while etcd is away, and hands it to any number of subscribers; a slow one skips tables.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from serve_rt.config.paths import write_atomically
from serve_rt.errors import ConfigError
from serve_rt.model.cluster import Cluster
from serve_rt.model.ids import NodeId, ReplicaId
from serve_rt.model.replica import ReplicaState
from serve_rt.model.routes import AppRoute, DeploymentRoute, ReplicaRoute, RouteTable
from serve_rt.model.spec import ApplicationSpec
from serve_rt.wire import records

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LocalReplica:
    """What the agent sees of a replica of its own node."""

    state: ReplicaState
    running: bool
    incarnation: int
    address: str


def build_table(
    cluster_name: str, cluster: Cluster, node: NodeId, local: Mapping[ReplicaId, LocalReplica] | None
) -> RouteTable:
    """`local` is None while the agent does not know its own replicas yet: then the leader's word stands."""
    return RouteTable(
        cluster=cluster_name,
        revision=cluster.revision,
        apps=tuple(_app_route(app.value) for _, app in sorted(cluster.apps.items())),
        deployments=tuple(overlay(route, node, local) for _, route in sorted(cluster.routes.items())),
        agents=tuple(sorted(record.address for record in cluster.nodes.values())),
    )


def overlay(route: DeploymentRoute, node: NodeId, local: Mapping[ReplicaId, LocalReplica] | None) -> DeploymentRoute:
    if local is None:
        return route
    seen = (_seen(replica, node, local) for replica in route.replicas)
    return replace(route, replicas=tuple(replica for replica in seen if replica is not None))


def _seen(replica: ReplicaRoute, node: NodeId, local: Mapping[ReplicaId, LocalReplica]) -> ReplicaRoute | None:
    if replica.node_id != node:
        return replica
    mine = local.get(replica.replica_id)
    if mine is None or not mine.running or mine.state is not ReplicaState.READY:
        return None
    return replace(replica, incarnation=mine.incarnation, address=mine.address, suspect=False)


def _app_route(app: ApplicationSpec) -> AppRoute:
    return AppRoute(
        name=app.name,
        route_prefix=app.route_prefix if not app.deleting else None,
        ingress=app.ingress,
        request_timeout_s=app.request_timeout_s,
        queue_timeout_s=app.queue_timeout_s,
        body_buffer_bytes=app.body_buffer_bytes,
        max_body_bytes=app.max_body_bytes,
    )


class Feed:
    """The present table, its snapshot, its subscribers."""

    def __init__(self, snapshot: Path, build: Callable[[], RouteTable]) -> None:
        self._snapshot = snapshot
        self._build = build
        self._encoded = b""
        self._changed = asyncio.Condition()
        self._table: RouteTable | None = self._load()
        if self._table is not None:
            self._encoded = records.encode(self._table)

    @property
    def table(self) -> RouteTable | None:
        return self._table

    async def refresh(self) -> None:
        """Build anew; publish and save only what differs."""
        table = self._build()
        if self._table is not None and replace(table, revision=self._table.revision) == self._table:
            return
        self._table, self._encoded = table, records.encode(table)
        async with self._changed:
            self._changed.notify_all()
        try:
            write_atomically(self._snapshot, self._encoded)
        except OSError as error:  # a full disk must not take the routes away
            log.error("cannot save the routes: %s", error, extra={"action": "snapshot_failed"})

    async def subscribe(self) -> AsyncIterator[bytes]:
        """Each new table, encoded; the newest only, when the reader is slower than the changes."""
        sent = b""
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._encoded and self._encoded is not sent)  # noqa: B023
            sent = self._encoded
            yield sent

    def _load(self) -> RouteTable | None:
        try:
            return records.decode(self._snapshot.read_bytes(), RouteTable, source=str(self._snapshot))
        except FileNotFoundError:
            return None
        except (ConfigError, OSError) as error:
            log.warning("starting without it: %s", error, extra={"action": "snapshot_damaged"})
            return None
