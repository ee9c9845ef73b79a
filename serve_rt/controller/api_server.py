"""The Controller service: Deploy, Delete, Rollback and Scale, by compare-and-swap on `/apps/<app>`, under the fence.

Called by agents, which forward what drivers and the CLI ask. Every controller process serves it; all but the leader
answer NotLeader with the leader's address. What comes next: the mirror shows the record and the loop plans.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import grpc.aio

from serve_rt.aio import Clock
from serve_rt.controller.swapping import MAX_TOGETHER, Change, Swapping
from serve_rt.controller.validate import check_application, check_prefix_is_free, checked_mark
from serve_rt.errors import ConfigError, ConflictError, NotFoundError, NotLeaderError
from serve_rt.etcd.contract import EtcdStore
from serve_rt.etcd.election import Leadership
from serve_rt.etcd.keys import Keys
from serve_rt.etcd.values import Delete, Put
from serve_rt.model.application import version_before
from serve_rt.model.capacity import is_rising, while_rising
from serve_rt.model.cluster import Cluster, Versioned
from serve_rt.model.ids import AppName, DeploymentName, NodeId, VersionId
from serve_rt.model.node import MarkRecord, NodeMark
from serve_rt.model.scaling import ScalingOverview
from serve_rt.model.spec import ApplicationSpec, DeploymentSpec
from serve_rt.pb import control_pb2 as pb
from serve_rt.store.mirror import Mirror
from serve_rt.wire.records import decode, encode

log = logging.getLogger(__name__)
KEPT_DEPLOY_IDS = 16
SALT = "~"
"""`<digest>~<salt>`: a forced redeploy of the same code is a version of its own."""


class ControllerService:
    """Changes are made one after another, so that two of them cannot both find a route prefix free."""

    def __init__(self, store: EtcdStore, keys: Keys, mirror: Mirror, clock: Clock) -> None:
        self._store, self._keys, self._mirror, self._clock = store, keys, mirror, clock
        self._swapping = Swapping(store, keys, mirror)
        self._one_at_a_time = asyncio.Lock()
        self.leadership: Leadership | None = None
        self.scaling: Callable[[AppName | None], ScalingOverview] | None = None
        self.metrics_page: Callable[[], Callable[[], bytes]] | None = None
        """All three are set by `main` for the time of a term."""

    # --- RPCs -----------------------------------------------------------------------------------------------------

    async def deploy(self, request: pb.DeployRequest, _context: grpc.aio.ServicerContext[Any, Any]) -> pb.ChangeReply:
        self._leading()
        records = (request.application, *request.more)
        asked = [decode(record, ApplicationSpec, source="the deploy request") for record in records]
        for spec, record in zip(asked, records, strict=True):
            check_application(spec, len(record))
        check_together(asked)
        async with self._one_at_a_time:
            await self._swapping.shown(self._leading().epoch)
            together = {*(one.name for one in asked), *map(AppName, request.gone)}
            for spec in asked:
                self._check_prefix(spec, together)
            changes: dict[AppName, Change] = {
                spec.name: partial(
                    self._deployed, asked=spec, force=request.force, together=together, if_absent=request.if_absent
                )
                for spec in asked
            }
            changes |= {AppName(app): _deleted for app in request.gone}
            revision = await self._swapping.swap(self._leading, changes)
        return pb.ChangeReply(deploy_id=asked[0].deploy_id, revision=revision)

    async def delete(self, request: pb.DeleteRequest, _context: grpc.aio.ServicerContext[Any, Any]) -> pb.ChangeReply:
        self._leading()
        async with self._one_at_a_time:
            await self._swapping.shown(self._leading().epoch)
            apps = [AppName(request.app)] if request.app else sorted(self._mirror.cluster.apps)
            revision = self._mirror.cluster.revision
            for some in _in_parts(apps):
                revision = max(revision, await self._swapping.swap(self._leading, dict.fromkeys(some, _deleted)))
        return pb.ChangeReply(deploy_id=request.deploy_id, revision=revision)

    async def rollback(
        self, request: pb.RollbackRequest, _context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ChangeReply:
        """*Errors*: NotFoundError naming the versions there are."""
        self._leading()
        app = AppName(request.app)
        async with self._one_at_a_time:
            await self._swapping.shown(self._leading().epoch)
            stands = self._mirror.cluster.apps.get(app)
            if stands is not None and stands.value.deploy_id == request.deploy_id:  # asked again
                return _rolled_back(stands.value, stands.mod_revision)
            number, spec = former_version(self._mirror.cluster, app, int(request.to_version))
            asked = replace(spec, deploy_id=request.deploy_id, restores=number)
            written = [asked]

            def change(now: Versioned[ApplicationSpec] | None) -> ApplicationSpec | None:
                if now is None or now.value.deleting:
                    raise NotFoundError(f"there is no application {app!r}")
                written[0] = self._deployed(now, asked, force=False, as_is=True) or now.value
                return written[0] if written[0] is not now.value else None

            revision = await self._swapping.swap(self._leading, {app: change})
        return _rolled_back(written[0], revision)

    async def scale(self, request: pb.ScaleRequest, _context: grpc.aio.ServicerContext[Any, Any]) -> pb.ChangeReply:
        """*Errors*: NotFoundError naming what there is; ConfigError for a deployment that is autoscaled."""
        self._leading()
        app = AppName(request.app)

        def change(now: Versioned[ApplicationSpec] | None) -> ApplicationSpec | None:
            if now is None or now.value.deleting:
                raise NotFoundError(f"there is no application {app!r}")
            asked = with_replicas(now.value, DeploymentName(request.deployment), int(request.num_replicas))
            asked = replace(asked, deploy_id=request.deploy_id, restores=0)
            return self._deployed(now, asked, force=False, as_is=True)

        async with self._one_at_a_time:
            await self._swapping.shown(self._leading().epoch)
            revision = await self._swapping.swap(self._leading, {app: change})
        return pb.ChangeReply(deploy_id=request.deploy_id, revision=revision)

    async def autoscaling(
        self, request: pb.AutoscalingRequest, _context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.AutoscalingReply:
        """*Errors*: NotFoundError for an application that is not there."""
        self._leading()
        if request.app and AppName(request.app) not in self._mirror.cluster.apps:
            raise NotFoundError(f"there is no application {request.app!r}")
        overview = self.scaling(AppName(request.app) if request.app else None) if self.scaling else ScalingOverview()
        return pb.AutoscalingReply(overview=encode(overview))

    async def metrics(
        self, _request: pb.NodeMetricsRequest, _context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.NodeMetricsReply:
        self._leading()
        make = self.metrics_page() if self.metrics_page else bytes
        return pb.NodeMetricsReply(text=await asyncio.to_thread(make))

    async def mark_node(
        self, request: pb.MarkNodeRequest, _context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ChangeReply:
        """*Errors*: NotFoundError naming the nodes there are; ConfigError for a mark that makes no sense there."""
        self._leading()
        async with self._one_at_a_time:
            await self._swapping.shown(self._leading().epoch)
            node, mark = NodeId(request.node_id), checked_mark(self._mirror.cluster, request.node_id, request.mark)
            if self._mirror.cluster.mark(node) is mark:
                return pb.ChangeReply(revision=self._mirror.cluster.revision)
            key = self._keys.mark(node)
            record = MarkRecord(node, mark, self._clock.wall())
            gone = mark is NodeMark.SCHEDULABLE
            written = await self._leading().write([Delete(key) if gone else Put(key, encode(record))])
            log.info("node %s is %s", node, mark.value, extra={"action": "node_marked", "node": node})
            await self._swapping.shown(written.revision)
        return pb.ChangeReply(revision=written.revision)

    # --- the swap -------------------------------------------------------------------------------------------------

    def _leading(self) -> Leadership:
        if self.leadership is None or self.leadership.lost.is_set():
            leader = self._mirror.cluster.leader
            raise NotLeaderError(
                f"this controller does not lead; {f'{leader.node_id} does' if leader else 'nobody does now'}",
                epoch=self._mirror.cluster.epoch,
                address=leader.address if leader is not None else "",
            )
        return self.leadership

    def _check_prefix(self, asked: ApplicationSpec, together: Collection[AppName]) -> None:
        """`together`: applications of the same request, whose prefixes change with it."""
        holders = (one for one in _prefix_holders(self._mirror.cluster) if one.name not in together)
        check_prefix_is_free(asked, holders)

    def _deployed(
        self,
        now: Versioned[ApplicationSpec] | None,
        asked: ApplicationSpec,
        *,
        force: bool,
        as_is: bool = False,
        together: Collection[AppName] = (),
        if_absent: bool = False,
    ) -> ApplicationSpec | None:
        """The record after the deploy; None when this deploy was done before. `as_is`: its versions are final.

        *Errors*: ConflictError when it must not be there and is.
        """
        past: tuple[str, ...] = ()
        if now is not None:
            past = (now.value.deploy_id, *now.value.past_deploy_ids)[:KEPT_DEPLOY_IDS]
            if asked.deploy_id in past:
                log.info("deploy %s is known", asked.deploy_id, extra={"action": "deploy_repeated", "app": asked.name})
                return None
            if if_absent and not now.value.deleting:
                raise ConflictError(f"there is an application {asked.name!r} already")
        self._check_prefix(asked, together)
        salt = asked.deploy_id if force else ""
        before = now.value if now is not None else None
        versions = asked.deployments if as_is else tuple(_versioned(s, before, salt) for s in asked.deployments)
        rising = is_rising(asked, before)
        if rising and not as_is:
            versions = tuple(while_rising(spec) for spec in versions)
        return replace(
            asked,
            deployments=versions,
            capacity_rising=rising,
            deleting=False,
            deployed_at_s=self._clock.wall(),
            past_deploy_ids=past,
            reborn_at=_reborn_at(now),
        )


def _prefix_holders(cluster: Cluster) -> Iterator[ApplicationSpec]:
    """Applications as they are asked for, and as their routes still are while an update is on its way."""
    for name, app in cluster.apps.items():
        yield app.value
        serving = cluster.serving(name)
        if serving is not None and serving.route_prefix != app.value.route_prefix:
            yield serving


def _in_parts(apps: Sequence[AppName]) -> Iterator[Sequence[AppName]]:
    return (apps[start : start + MAX_TOGETHER] for start in range(0, len(apps), MAX_TOGETHER))


def _deleted(now: Versioned[ApplicationSpec] | None) -> ApplicationSpec | None:
    if now is None or now.value.deleting:
        return None  # Ray: deleting what is not there is no error
    return replace(now.value, deleting=True)


def check_together(asked: Sequence[ApplicationSpec]) -> None:
    """*Errors*: ConfigError, ConflictError for applications that cannot be deployed in one request."""
    for index, spec in enumerate(asked):
        if any(other.name == spec.name for other in asked[:index]):
            raise ConfigError(f"application {spec.name!r} is asked for twice in one request")
        check_prefix_is_free(spec, asked[:index])


def with_replicas(app: ApplicationSpec, name: DeploymentName, count: int) -> ApplicationSpec:
    """`app` with another fixed number of replicas. *Errors*: NotFoundError; ConfigError when it is autoscaled."""
    spec = app.deployment(name)
    if spec is None:
        there = ", ".join(repr(str(one.name)) for one in app.deployments)
        raise NotFoundError(f"application {app.name!r} has no deployment {name!r}; it has {there}")
    auto = spec.options.autoscaling
    if auto is not None:
        raise ConfigError(
            f"deployment {name!r} is autoscaled, from {auto.min_replicas} to {auto.max_replicas} replicas: change "
            "min_replicas and max_replicas of its autoscaling_config, or give it a num_replicas, and deploy it again"
        )
    scaled = replace(spec, options=replace(spec.options, num_replicas=count))
    return replace(app, deployments=tuple(scaled if one is spec else one for one in app.deployments))


def _rolled_back(spec: ApplicationSpec, revision: int) -> pb.ChangeReply:
    return pb.ChangeReply(deploy_id=spec.deploy_id, revision=revision, application=encode(spec), version=spec.restores)


def former_version(cluster: Cluster, app: AppName, number: int) -> tuple[int, ApplicationSpec]:
    """The version of that number; 0 stands for the one before the present.

    *Errors*: NotFoundError naming the versions there are.
    """
    memory, versions = cluster.served.get(app), cluster.versions.get(app, {})
    if memory is None or app not in cluster.apps or cluster.is_reborn(app, memory.generation):
        raise NotFoundError(f"there is no application {app!r} with former versions")
    wanted = number or version_before(memory) or 0
    spec = versions.get(wanted)
    if spec is not None:
        return wanted, spec
    kept = ", ".join(str(n) for n in sorted(versions))
    if not number:
        raise NotFoundError(f"application {app!r} has no good version before the present one (kept: {kept})")
    raise NotFoundError(f"application {app!r} has no version {number}; kept are the last ones: {kept}")


def _reborn_at(now: Versioned[ApplicationSpec] | None) -> int:
    if now is None:
        return 0
    return now.mod_revision if now.value.deleting else now.value.reborn_at


def _versioned(spec: DeploymentSpec, now: ApplicationSpec | None, salt: str) -> DeploymentSpec:
    """A forced deploy makes a new version of the same digest; a later plain one of that digest keeps it."""
    if salt:
        return replace(spec, version=VersionId(f"{spec.version}{SALT}{salt[-8:]}"))
    running = now.deployment(spec.name) if now is not None and not now.deleting else None
    if running is not None and running.version.split(SALT)[0] == spec.version:
        return replace(spec, version=running.version)
    return spec
