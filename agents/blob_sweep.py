"""Blobs that nobody can need any more leave this node's disk, and `/blobs`.

Needed is what a record names: applications as they are asked for, their last versions (rollback), what deployments run
or return to, assignments, and what this node keeps running whatever the store says. What nobody names goes after
`BLOB_GRACE_S`: a driver sends its blobs before its deploy is recorded, and a store that lost its records may get them
back. Run by `parts`; whether a blob is needed is a pure question.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator

from serve_rt.agents.blobs import BlobStore
from serve_rt.aio import Clock
from serve_rt.config.waits import wait_s
from serve_rt.model.cluster import Cluster
from serve_rt.model.ids import BlobDigest, NodeId
from serve_rt.model.spec import ApplicationSpec, DeploymentSpec

log = logging.getLogger(__name__)
BLOB_GRACE_S = 3600.0
LOOK_S = 60.0


def named_blobs(cluster: Cluster, running: Iterable[DeploymentSpec]) -> frozenset[BlobDigest]:
    """`running`: what this node keeps, whatever the store says."""
    applications = [app.value for app in cluster.apps.values()]
    applications += [spec for versions in cluster.versions.values() for spec in versions.values()]
    specs = [spec for app in applications for spec in app.deployments]
    specs += [spec for memory in cluster.deployments.values() for spec in (memory.target, *memory.versions)]
    specs += [assignment.spec for assignment in cluster.assignments.values()]
    named = {digest for spec in (*specs, *running) for digest in _of_deployment(spec)}
    named |= {digest for app in applications for digest in _of_policy(app)}
    return frozenset(named)


def _of_deployment(spec: DeploymentSpec) -> Iterator[BlobDigest]:
    yield spec.payload
    if spec.code is not None:
        yield spec.code
    scaling = spec.options.autoscaling
    if scaling is not None and scaling.policy is not None and scaling.policy.payload is not None:
        yield scaling.policy.payload


def _of_policy(app: ApplicationSpec) -> Iterator[BlobDigest]:
    policy = app.autoscaling_policy
    if policy is not None and policy.payload is not None:
        yield policy.payload


class BlobSweep:
    def __init__(
        self,
        node: NodeId,
        blobs: BlobStore,
        cluster: Callable[[], Cluster],
        running: Callable[[], Iterable[DeploymentSpec]],
        on_dropped: Callable[[BlobDigest], None],
        clock: Clock,
    ) -> None:
        self._node, self._blobs, self._cluster, self._running = node, blobs, cluster, running
        self._on_dropped, self._clock = on_dropped, clock
        self._grace_s = wait_s("blob_grace_s", BLOB_GRACE_S)
        self._unnamed_since: dict[BlobDigest, float] = {}

    async def run(self) -> None:
        """Until cancelled."""
        look_s = wait_s("blob_look_s", LOOK_S)
        while True:
            await self._clock.sleep(look_s)
            for digest in self._held_in_name_only():
                self._on_dropped(digest)
            for digest in self.due():
                if digest in self._blobs.asked_for:
                    continue  # since a moment ago
                await asyncio.to_thread(self._blobs.drop(digest))
                self._on_dropped(digest)
                log.info("nobody names blob %s any more", digest[:12], extra={"action": "blob_dropped"})

    def _held_in_name_only(self) -> list[BlobDigest]:
        """Said to be here, and not: a former agent died between the two, or the disk was emptied."""
        said = (digest for digest, holders in self._cluster().blobs.items() if self._node in holders)
        return [digest for digest in said if not self._blobs.has(digest)]

    def due(self) -> list[BlobDigest]:
        """What has been named by nobody, and asked for by nobody, for the whole grace."""
        cluster, now = self._cluster(), self._clock.monotonic()
        if not cluster.incarnation:
            return []  # the store has not been read yet
        named = named_blobs(cluster, self._running())
        asked, self._blobs.asked_for = self._blobs.asked_for, set()
        unnamed = set(self._blobs.digests()) - named
        self._unnamed_since = {
            digest: now if digest in asked else self._unnamed_since.get(digest, now) for digest in unnamed
        }
        return [digest for digest, since in self._unnamed_since.items() if now - since >= self._grace_s]
