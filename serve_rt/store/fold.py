"""Key changes in, frozen `Cluster` out.

`Fold` is the mirror's memory: it is told what changed under the cluster's prefix (paths relative to it) and gives the
next `Cluster`, sharing every map that was not touched. It also notes on the reader's monotonic clock since when a node
that holds replicas is not registered and since when a rollout is in its phase: the two waits that the leader decides
by. It talks to nobody; `mirror` feeds it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from serve_rt.errors import ConfigError
from serve_rt.model.application import ApplicationMemory, AppVersion
from serve_rt.model.cluster import Absence, Cluster, DeploymentMemory, LeaderRecord, MetaRecord, Versioned
from serve_rt.model.ids import AppName, BlobDigest, DeploymentKey, DeploymentName, NodeId, ReplicaId, deployment_of
from serve_rt.model.node import MarkRecord, NodeRecord
from serve_rt.model.proxies import ProxyRecord
from serve_rt.model.replica import Assignment, Observed
from serve_rt.model.routes import DeploymentRoute
from serve_rt.model.spec import ApplicationSpec
from serve_rt.wire.records import decode

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Change:
    """One key put (`value`) or deleted (None)."""

    path: str
    value: bytes | None
    mod_revision: int = 0
    create_revision: int = 0


class Fold:
    def __init__(self) -> None:
        self.cluster = Cluster()
        self._fields: dict[str, Any] = {}
        """Fields of the next Cluster; a map in here is our own copy."""
        self._shards: dict[DeploymentKey, dict[int, DeploymentRoute]] = {}
        self._appliers: dict[str, Callable[[list[str], Change], None]] = {
            "meta": self._meta,
            "leader": self._leader,
            "nodes": self._node,
            "proxy": self._proxy,
            "marks": self._mark,
            "apps": self._app,
            "served": self._served,
            "versions": self._version,
            "deployments": self._deployment,
            "assign": self._assignment,
            "observed": self._observed,
            "routes": self._route,
            "blobs": self._blob,
        }

    def restart(self, changes: Iterable[Change], revision: int, now: float) -> Cluster:
        """Everything is told anew (first list, or after a compaction); waits that still run keep their start."""
        before = self.cluster
        self.cluster = Cluster(
            gone_since=before.gone_since,
            absences=before.absences,
            phase_since=before.phase_since,
            served_since=before.served_since,
        )
        self._shards = {}
        return self._apply(changes, revision, now, before)

    def apply(self, changes: Iterable[Change], revision: int, now: float) -> Cluster:
        return self._apply(changes, revision, now, self.cluster)

    def _apply(self, changes: Iterable[Change], revision: int, now: float, before: Cluster) -> Cluster:
        self._fields = {"revision": revision}
        for change in changes:
            kind, *rest = change.path.split("/")
            applier = self._appliers.get(kind)
            if applier is None:
                continue  # a newer version's key
            try:
                applier(rest, change)
            except (ConfigError, ValueError) as error:
                # One bad record must not blind the leader to all others; the key keeps its last good value here.
                log.error("record %s is skipped: %s", change.path, error, extra={"action": "record_skipped"})
        self._note_times(before, now)
        self.cluster = replace(self.cluster, **self._fields)
        self._fields = {}
        return self.cluster

    # --- one method per kind of key -------------------------------------------------------------------------------

    def _meta(self, _rest: list[str], change: Change) -> None:
        meta = _decoded(change, MetaRecord)
        self._fields["incarnation"] = meta.incarnation if meta is not None else ""

    def _leader(self, _rest: list[str], change: Change) -> None:
        self._fields["leader"] = _decoded(change, LeaderRecord)
        self._fields["epoch"] = change.create_revision if change.value is not None else 0

    def _node(self, rest: list[str], change: Change) -> None:
        (node,) = rest
        _set(self._map("nodes"), NodeId(node), _decoded(change, NodeRecord))
        registered = change.create_revision if change.value is not None else None
        _set(self._map("registered_at"), NodeId(node), registered)

    def _proxy(self, _rest: list[str], change: Change) -> None:
        self._fields["proxy"] = _decoded(change, ProxyRecord)

    def _mark(self, rest: list[str], change: Change) -> None:
        (node,) = rest
        _set(self._map("marks"), NodeId(node), _decoded(change, MarkRecord))

    def _app(self, rest: list[str], change: Change) -> None:
        (app,) = rest
        spec = _decoded(change, ApplicationSpec)
        _set(self._map("apps"), AppName(app), Versioned(spec, change.mod_revision) if spec is not None else None)

    def _served(self, rest: list[str], change: Change) -> None:
        (app,) = rest
        _set(self._map("served"), AppName(app), _decoded(change, ApplicationMemory))

    def _version(self, rest: list[str], change: Change) -> None:
        app, number = AppName(rest[0]), int(rest[1])
        version, versions = _decoded(change, AppVersion), self._map("versions")
        kept = {known: spec for known, spec in versions.get(app, {}).items() if known != number}
        if version is not None:
            kept[number] = version.spec
        _set(versions, app, kept or None)

    def _deployment(self, rest: list[str], change: Change) -> None:
        _set(self._map("deployments"), _key(rest), _decoded(change, DeploymentMemory))

    def _assignment(self, rest: list[str], change: Change) -> None:
        _node, replica = rest
        deployment_of(ReplicaId(replica))  # a key that is no replica's is refused here, not in the leader's decisions
        _set(self._map("assignments"), ReplicaId(replica), _decoded(change, Assignment))
        written = change.mod_revision if change.value is not None else None
        _set(self._map("assigned_at"), ReplicaId(replica), written)

    def _observed(self, rest: list[str], change: Change) -> None:
        _node, replica = rest
        deployment_of(ReplicaId(replica))  # a key that is no replica's is refused here, not in the leader's decisions
        _set(self._map("observed"), ReplicaId(replica), _decoded(change, Observed))

    def _route(self, rest: list[str], change: Change) -> None:
        key, shard = _key(rest[:2]), int(rest[2])
        shards = self._shards.setdefault(key, {})
        _set(shards, shard, _decoded(change, DeploymentRoute))
        routes, counts = self._map("routes"), self._map("route_shards")
        if not shards:
            self._shards.pop(key)
        _set(routes, key, join_shards(shards))
        _set(counts, key, max(shards) + 1 if shards else None)

    def _blob(self, rest: list[str], change: Change) -> None:
        digest, node = BlobDigest(rest[0]), NodeId(rest[1])
        blobs = self._map("blobs")
        holders = blobs.get(digest, frozenset())
        holders = holders | {node} if change.value is not None else holders - {node}
        _set(blobs, digest, holders or None)

    # --- times ----------------------------------------------------------------------------------------------------

    def _note_times(self, before: Cluster, now: float) -> None:
        if {"nodes", "assignments", "observed"} & self._fields.keys() or before is not self.cluster:
            nodes = self._now("nodes")
            holding = {a.node_id for a in self._now("assignments").values()}
            holding |= {o.node_id for o in self._now("observed").values()}
            gone = {node: before.gone_since.get(node, now) for node in holding if node not in nodes}
            self._fields["gone_since"] = gone
            back = {node: Absence(since, now) for node, since in before.gone_since.items() if node in nodes}
            if back:
                self._fields["absences"] = {**before.absences, **back}
        if "deployments" in self._fields or before is not self.cluster:
            self._fields["phase_since"] = {
                key: _since(before, key, memory, now) for key, memory in self._now("deployments").items()
            }
        if "served" in self._fields or before is not self.cluster:
            self._fields["served_since"] = {
                app: _served_since(before, app, memory, now) for app, memory in self._now("served").items()
            }

    def _now(self, name: str) -> Any:
        return self._fields.get(name, getattr(self.cluster, name))

    def _map(self, name: str) -> dict[Any, Any]:
        copied: dict[Any, Any] | None = self._fields.get(name)
        if copied is None:
            copied = self._fields[name] = dict(getattr(self.cluster, name))
        return copied


def join_shards(shards: dict[int, DeploymentRoute]) -> DeploymentRoute | None:
    """The route of a deployment: the first shard's words, all shards' replicas."""
    if 0 not in shards:
        return None  # half written or half removed: the rest arrives in the same transaction
    if len(shards) == 1:
        return shards[0]
    return replace(shards[0], replicas=tuple(r for n in sorted(shards) for r in shards[n].replicas))


def _since(before: Cluster, key: DeploymentKey, memory: DeploymentMemory, now: float) -> float:
    old = before.deployments.get(key)
    standing = (memory.phase, memory.generation, memory.progress)
    if old is not None and (old.phase, old.generation, old.progress) == standing:
        return before.phase_since.get(key, now)
    return now


def _served_since(before: Cluster, app: AppName, memory: ApplicationMemory, now: float) -> float:
    old = before.served.get(app)
    return before.served_since.get(app, now) if old is not None and old.serving == memory.serving else now


def _decoded(change: Change, kind: type[T]) -> T | None:
    return decode(change.value, kind, source=change.path) if change.value is not None else None


def _key(rest: list[str]) -> DeploymentKey:
    app, deployment = rest
    return DeploymentKey(AppName(app), DeploymentName(deployment))


def _set(into: dict[Any, Any], key: Any, value: Any) -> None:
    if value is None:
        into.pop(key, None)
    else:
        into[key] = value
