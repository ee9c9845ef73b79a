"""Routes for everyone on this node: the leader's word, corrected by what the agent itself can see.

`leaders_table` and `overlay` are pure. A local replica known dead leaves the table at once, without the leader and
without etcd; one that the agent restarted comes back with its new incarnation when it is READY. `Feed` keeps both on
disk: the leader's word, so that a restarted agent can correct it anew, and the corrected table, so that a proxy starts
while etcd is away. Any number of subscribers get the table; a slow one skips some.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from serve_rt.config.paths import StateDir, write_atomically
from serve_rt.errors import ConfigError
from serve_rt.model.cluster import Cluster
from serve_rt.model.ids import NodeId, ReplicaId
from serve_rt.model.replica import ReplicaState
from serve_rt.model.routes import AppRoute, Availability, DeploymentRoute, ReplicaRoute, RouteTable
from serve_rt.model.spec import ApplicationSpec
from serve_rt.wire import records

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LocalReplica:
    """What the agent sees of a replica of its own node."""

    state: ReplicaState
    running: bool
    incarnation: int
    address: str


@dataclass(frozen=True, slots=True)
class LeadersWord:
    """The table as the store has it, and of which life of the store it is."""

    store_incarnation: str
    table: RouteTable
    schema: int = 1


def leaders_table(cluster_name: str, cluster: Cluster) -> RouteTable:
    return RouteTable(
        cluster=cluster_name,
        revision=cluster.revision,
        apps=tuple(_app_route(app.value, cluster.serving(name)) for name, app in sorted(cluster.apps.items())),
        deployments=tuple(_of_this_life(route, cluster) for _, route in sorted(cluster.routes.items())),
        agents=tuple(sorted(record.address for record in cluster.nodes.values())),
    )


def build_table(word: RouteTable, node: NodeId, local: Mapping[ReplicaId, LocalReplica] | None) -> RouteTable:
    """`local` is None while the agent does not know its own replicas yet: then the leader's word stands."""
    return replace(word, deployments=tuple(overlay(route, node, local) for route in word.deployments))


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


def _app_route(asked: ApplicationSpec, serving: ApplicationSpec | None) -> AppRoute:
    """Where requests go and how they are treated: as the version says that serves; the asked one may not be ready."""
    app = serving or asked
    return AppRoute(
        name=app.name,
        route_prefix=app.route_prefix if not asked.deleting else None,
        ingress=app.ingress,
        request_timeout_s=app.request_timeout_s,
        queue_timeout_s=app.queue_timeout_s,
        body_buffer_bytes=app.body_buffer_bytes,
        max_body_bytes=app.max_body_bytes,
        handle_queue_timeout_s=app.handle_queue_timeout_s,
    )


def _of_this_life(route: DeploymentRoute, cluster: Cluster) -> DeploymentRoute:
    """An application that was deleted and deployed again at once: what ran before answers nobody any more."""
    memory = cluster.deployments.get(route.key)
    if memory is None or not cluster.is_reborn(route.app, memory.generation):
        return route
    return replace(route, replicas=(), availability=Availability.WAIT, message="")


class Feed:
    """The present table, its snapshot, its subscribers."""

    def __init__(self, state: StateDir, cluster: str, node: NodeId) -> None:
        self._snapshot = state.routes
        self._word_path = state.path / "routes-leader.json"
        self._cluster_name, self._node = cluster, node
        self._word: LeadersWord | None = _load(self._word_path, LeadersWord)
        self._table: RouteTable | None = None
        self._encoded = b""
        self._changed = asyncio.Event()
        self.local: Callable[[], Mapping[ReplicaId, LocalReplica] | None] = lambda: None

    @property
    def table(self) -> RouteTable | None:
        return self._table

    def cluster_changed(self, cluster: Cluster) -> None:
        """A new word of the leader. A store that was wiped has none yet: the former word stands until it has."""
        word = LeadersWord(cluster.incarnation, leaders_table(self._cluster_name, cluster))
        before = self._word
        if before is not None:
            if word.store_incarnation != before.store_incarnation and not cluster.apps and before.table.deployments:
                return
            if _same(word.table, before.table) and word.store_incarnation == before.store_incarnation:
                return
        self._word = word
        _save(self._word_path, records.encode(word))
        self.refresh()

    def refresh(self) -> None:
        """Correct the leader's word by what is seen here; publish and save only what differs."""
        if self._word is None:
            return
        table = build_table(self._word.table, self._node, self.local())
        if self._table is not None and _same(table, self._table):
            return
        self._table, self._encoded = table, records.encode(table)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        _save(self._snapshot, self._encoded)

    async def subscribe(self) -> AsyncIterator[bytes]:
        """Each new table, encoded; the newest only, when the reader is slower than the changes."""
        sent = b""
        while True:
            changed, table = self._changed, self._encoded
            if table and table is not sent:
                sent = table
                yield table
            else:
                await changed.wait()


def _same(a: RouteTable, b: RouteTable) -> bool:
    return replace(a, revision=b.revision) == b


def _save(path: Path, data: bytes) -> None:
    try:
        write_atomically(path, data)
    except OSError as error:  # a full disk must not take the routes away
        log.error("cannot save the routes: %s", error, extra={"action": "snapshot_failed"})


def _load(path: Path, kind: type[T]) -> T | None:
    try:
        return records.decode(path.read_bytes(), kind, source=str(path))
    except FileNotFoundError:
        return None
    except (ConfigError, OSError) as error:
        log.warning("starting without it: %s", error, extra={"action": "snapshot_damaged"})
        return None
