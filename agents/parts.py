"""The parts of one agent, made and joined in one place: who tells whom what.

    launcher ──exits──▶ supervisor ──changes──▶ feed (overlay), observations (etcd, leader's stream)
    etcd ──watch──▶ mirror ──assignments──▶ supervisor, ──routes──▶ feed

Built by `agent` once the node is known. No decisions here, only wires.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterable

import grpc

from serve_rt.agents.api_server import AgentService
from serve_rt.agents.blob_sweep import BlobSweep
from serve_rt.agents.blobs import BlobStore
from serve_rt.agents.children import Children
from serve_rt.agents.devices import Devices
from serve_rt.agents.ending import EndingWish
from serve_rt.agents.feed import Feed
from serve_rt.agents.intake import Reading
from serve_rt.agents.launcher.records import Exit, Handle, ProcessKind
from serve_rt.agents.launcher_link import LauncherLink
from serve_rt.agents.leader_calls import LeaderCalls
from serve_rt.agents.memory import AgentMemory
from serve_rt.agents.node import ThisNode
from serve_rt.agents.observations import Observations
from serve_rt.agents.proxies import Proxies
from serve_rt.agents.reaching import tls_of
from serve_rt.agents.registration import Registration
from serve_rt.agents.starting import Starter
from serve_rt.agents.supervisor import Supervisor
from serve_rt.agents.version import software
from serve_rt.aio import Clock, TaskOwner
from serve_rt.errors import ServeException
from serve_rt.etcd import EtcdClient, Keys
from serve_rt.model.cluster import Cluster
from serve_rt.model.ids import BlobDigest, ReplicaId
from serve_rt.model.node import NodeRecord
from serve_rt.model.spec import DeploymentSpec
from serve_rt.pb import control_pb2 as pb
from serve_rt.store.mirror import Mirror
from serve_rt.wire.services import service_handler

log = logging.getLogger(__name__)


class Parts:
    """*Resources*: `agent` runs `start_tasks`, and awaits `close()`."""

    _proxies: Proxies | None = None
    """None: this node serves no HTTP, whatever the cluster says."""
    _sweep: BlobSweep | None = None
    """None: a simulated node, which has no disk."""

    def __init__(
        self, node: ThisNode, launcher: LauncherLink, children: Children, clock: Clock, tasks: TaskOwner
    ) -> None:
        self.node, self._launcher, self._children, self._tasks = node, launcher, children, tasks
        self._clock = clock
        keys = Keys(node.cluster)
        self.store = EtcdClient(node.etcd.endpoints, tls=tls_of(node.etcd))
        self.mirror = Mirror(self.store, keys, clock=clock)
        self.memory = AgentMemory(node.state)
        self._started_at_s = clock.wall()
        self.registration = Registration(self.store, keys, node, self._node_record, clock=clock)
        self.observations = Observations(self.registration)
        self.feed = Feed(node.state, node.cluster, node.node_id)
        self.blobs = BlobStore(node.state, node.token, self._blob_holders, self.observations.blob_changed)
        self.devices = Devices(self.registration.update, memory=self.memory, boot_id=node.boot_id)
        starter = Starter(node, self.blobs, lambda: self.supervisor.ports(), self.devices)
        self.supervisor = Supervisor(node, launcher, starter, self.memory, clock, self._replica_changed, self._learned)
        changed = self.observations.blob_changed
        self._sweep = BlobSweep(
            node.node_id, self.blobs, lambda: self.mirror.cluster, self._running_specs, changed, clock
        )
        self._join()

    def _join(self) -> None:
        self.observations.observed = self.supervisor.observed
        self.observations.stored = self._stored_observations
        self.observations.held_blobs = self.blobs.digests
        self.registration.on_registered = self.observations.all_changed
        self.mirror.subscribe(self._cluster_changed)
        self._launcher.on_exit = self._exited
        self._launcher.on_reconnected = self._launcher_replaced

    def handler(self, ending: EndingWish) -> grpc.GenericRpcHandler:
        service = AgentService(
            self.node,
            self.mirror,
            LeaderCalls(self.mirror, self.node.token),
            self.feed,
            self.blobs,
            self.supervisor,
            self.observations,
            self._launcher,
            ending.leave,
            self._restart_proxies,
            self._clock,
            self._http_address,
        )
        return service_handler(pb.DESCRIPTOR.services_by_name["Agent"], service)

    def serve_http(self, proxies: Proxies) -> None:
        """Before anything is registered: a node without it serves no HTTP."""
        self._proxies = proxies
        proxies.on_address = self._tell_http_address

    async def adopt(self, found: Iterable[Handle]) -> int:
        """Take over what runs here; routes are corrected by it from now on."""
        adopted = await self.supervisor.adopt(found)
        self.feed.local = self.supervisor.local
        self.feed.refresh()
        return adopted

    def start_tasks(self) -> None:
        self._launcher.listen()
        self._tasks.start_eternal(self.supervisor.run(), name="supervisor")
        self._tasks.start_eternal(self.mirror.run(), name="mirror")
        self._tasks.start_eternal(self.observations.run(), name="observations")
        self._tasks.start_eternal(self.devices.run(), name="devices")
        if self._sweep is not None:
            self._tasks.start_eternal(self._sweep.run(), name="blob sweep")

    async def close(self) -> None:
        await self.supervisor.close()
        await self.store.close()

    # --- who hears what -------------------------------------------------------------------------------------------

    def _exited(self, exit_: Exit) -> None:
        if exit_.kind is ProcessKind.REPLICA:
            self.supervisor.exited(exit_)
        else:
            self._children.exited(exit_)

    def _launcher_replaced(self, handles: Iterable[Handle]) -> None:
        known = tuple(handles)
        self.supervisor.launcher_replaced(known)
        self._children.launcher_replaced(known)

    def _cluster_changed(self, cluster: Cluster) -> None:
        mine = cluster.assignments_of(self.node.node_id)
        self.supervisor.apply(Reading(cluster.incarnation, cluster.revision, cluster.epoch, mine))
        self.feed.cluster_changed(cluster)
        if self._proxies is not None:
            self._proxies.cluster_changed(self.node.node_id, cluster)

    def _replica_changed(self, replica: ReplicaId) -> None:
        self.feed.refresh()
        self.observations.replica_changed(replica)

    def _learned(self, modules: tuple[str, ...]) -> None:
        if modules:
            self._tasks.start(self._preload(modules), name="learned preload")

    async def _preload(self, modules: tuple[str, ...]) -> None:
        try:
            await self._launcher.preload(modules)
        except ServeException as error:
            log.warning("not learned: %s", error, extra={"action": "preload_failed"})

    async def _restart_proxies(self) -> int:
        return await self._proxies.restart() if self._proxies is not None else 0

    def _tell_http_address(self) -> None:
        self._tasks.start(self.registration.update(), name="tell the HTTP address")

    def _http_address(self) -> str:
        return self._proxies.address if self._proxies is not None else ""

    # --- what others ask for --------------------------------------------------------------------------------------

    def other_nodes(self) -> tuple[str, ...]:
        """Who would lose their etcd if this node left."""
        if not self.node.hosts_etcd:
            return ()
        return tuple(node for node in self.mirror.cluster.nodes if node != self.node.node_id)

    def _node_record(self) -> NodeRecord:
        node = self.node
        return NodeRecord(
            node_id=node.node_id,
            address=node.address,
            session=node.session,
            boot_id=node.boot_id,
            resources=node.resources,
            labels=node.settings.labels,
            hostname=socket.gethostname(),
            pid=os.getpid(),
            http_address=self._http_address(),
            may_serve_http=self._proxies is not None and self._proxies.may,
            replica_host=node.replica_host,
            highest_revision=self.supervisor.high_water.revision,
            started_at_s=self._started_at_s,
            registered_since_s=self._clock.wall(),
            software=software(),
            state_dir=str(node.state.path),
            hosts_etcd=node.hosts_etcd,
            quarantined=dict(self.devices.quarantined),
        )

    def _blob_holders(self, digest: BlobDigest) -> list[str]:
        cluster = self.mirror.cluster
        holders = cluster.blobs.get(digest, frozenset()) - {self.node.node_id}
        return [cluster.nodes[node].address for node in sorted(holders) if node in cluster.nodes]

    def _running_specs(self) -> list[DeploymentSpec]:
        return [keeper.copy.assignment.spec for keeper in self.supervisor.keepers()]

    def _stored_observations(self) -> list[ReplicaId]:
        return [o.replica_id for o in self.mirror.cluster.observed.values() if o.node_id == self.node.node_id]
