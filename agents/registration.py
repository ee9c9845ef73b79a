"""The node's place in the cluster: `/nodes/<node>` under a lease, taken, kept, taken again, given back.

Who may take a node id: its successor on this very machine (same boot, same state dir, whose lock we hold) at once;
anybody else only when the address registered there does not answer any more and the old lease has run out. A lost
lease means a lost registration and nothing else: no replica is touched, the agent registers anew. What may only be
written under the registration (observed records, blobs) is written by `observations` through `writer`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import grpc
import grpc.aio

from serve_rt.agents.node import ThisNode
from serve_rt.aio import Backoff, Clock
from serve_rt.config.waits import wait_s
from serve_rt.credentials import control_channel
from serve_rt.errors import ConflictError, EtcdError, EtcdUnavailableError, SessionLostError
from serve_rt.etcd import EtcdStore, Keys, Session
from serve_rt.model.node import NodeRecord
from serve_rt.model.proxies import ProxyLocation, ProxyRecord
from serve_rt.pb import control_pb2 as pb
from serve_rt.store.writer import NodeWriter
from serve_rt.wire.services import Stub

log = logging.getLogger(__name__)
LEASE_S = 10
_ASK_HOLDER_S = 2.0
_PAST_OLD_LEASE_S = 5.0


class Registration:
    """*Resources*: `leave()` gives the node id back; without it the lease stays for a successor, or expires."""

    def __init__(
        self,
        store: EtcdStore,
        keys: Keys,
        node: ThisNode,
        record: Callable[[], NodeRecord],
        lease_s: int | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._store, self._keys, self._node, self._record = store, keys, node, record
        self._lease_s = lease_s if lease_s is not None else round(wait_s("node_lease_s", LEASE_S))
        self._clock = clock
        self._session: Session | None = None
        self._writer: NodeWriter | None = None
        self.registered = asyncio.Event()
        self.on_registered: Callable[[], None] = lambda: None

    @property
    def writer(self) -> NodeWriter | None:
        """None while the node is not registered."""
        return self._writer

    async def register(self) -> None:
        """*Errors*: ConflictError when somebody else lives under this node id; EtcdError."""
        session = await Session.open(self._store, self._lease_s, clock=self._clock)
        try:
            writer = NodeWriter(self._store, self._keys, self._node.node_id, session.lease)
            await self._take(writer)
            await self._propose_proxies(writer)
        except BaseException:
            await session.close()
            raise
        self._session, self._writer = session, writer
        self.registered.set()
        log.info("registered as node %s", self._node.node_id, extra={"action": "registered"})
        self.on_registered()

    async def keep(self) -> None:
        """Until cancelled: register when not registered, again when the lease is lost."""
        backoff = Backoff(0.2, 5.0)
        while True:
            if self._session is not None:
                await self._session.lost.wait()
                await self._drop_session()
            try:
                await self.register()
                backoff.reset()
            except (EtcdError, ConflictError) as error:
                log.warning("not registered: %s", error, extra={"action": "registration_failed"})
                await asyncio.sleep(backoff.next_s())

    def lost(self) -> None:
        """A write showed that the registration is not ours any more."""
        if self._session is not None:
            self._session.lost.set()

    async def update(self) -> None:
        """Write the record anew (it has changed); it is written when this returns. Without etcd, or not registered, it
        waits: until then the leader reads the former record (found by simulation)."""
        backoff = Backoff(0.1, 2.0)
        while True:
            writer = self._writer
            if writer is None:
                await self.registered.wait()
                continue
            try:
                await writer.update(self._record())
            except SessionLostError:
                self.lost()
            except EtcdUnavailableError as error:
                log.info("the node's record waits: %s", error, extra={"action": "node_update_waits"})
            else:
                return
            await asyncio.sleep(backoff.next_s())

    async def leave(self) -> None:
        writer, session = self._writer, self._session
        self._writer = self._session = None
        self.registered.clear()
        if writer is not None:
            await writer.leave()
        if session is not None:
            await session.close()

    async def _propose_proxies(self, writer: NodeWriter) -> None:
        """The first agent's word on who serves HTTP holds for the cluster."""
        asked = self._node.settings.proxy_location
        said = await writer.propose_proxy(ProxyRecord(asked or ProxyLocation.EveryNode))
        if asked not in (None, said.location):
            log.warning(
                "--proxy-location %s is ignored: the running cluster has %s",
                asked,
                said.location,
                extra={"action": "proxy_location_ignored"},
            )

    async def _drop_session(self) -> None:
        session, self._session, self._writer = self._session, None, None
        self.registered.clear()
        if session is not None:
            await session.close()

    async def _take(self, writer: NodeWriter) -> None:
        over_lease = 0
        deadline = asyncio.get_running_loop().time() + LEASE_S + _PAST_OLD_LEASE_S
        while True:
            result = await writer.register(self._record(), over_lease=over_lease)
            if result.won:
                return
            over_lease = 0
            holder = result.holder_record()
            if holder is None or result.holder is None:
                continue  # it left between the two reads
            if self._is_predecessor(holder):
                over_lease = result.holder.lease
                continue
            await self._refuse_if_alive(holder)
            if asyncio.get_running_loop().time() >= deadline:
                raise ConflictError(f"node id {self._node.node_id!r} is still registered by {_describe(holder)}")
            await asyncio.sleep(0.25)

    def _is_predecessor(self, holder: NodeRecord) -> bool:
        """Our own former life: the same boot of the same machine, and the state dir whose lock we hold."""
        return holder.boot_id == self._node.boot_id and holder.state_dir == str(self._node.state.path)

    async def _refuse_if_alive(self, holder: NodeRecord) -> None:
        if await _answers(holder, self._node):
            raise ConflictError(
                f"node id {self._node.node_id!r} is taken by {_describe(holder)}, which answers: "
                "give this agent another --node-id"
            )


async def _answers(holder: NodeRecord, node: ThisNode) -> bool:
    """Does an agent with this node id serve at the registered address? A wrong token is an answer, too."""
    async with control_channel(holder.address, node.token) as channel:
        stub = Stub(channel, pb.DESCRIPTOR.services_by_name["Agent"])
        try:
            reply = await stub.Identity(pb.IdentityRequest(), timeout=_ASK_HOLDER_S)
        except grpc.aio.AioRpcError as error:
            return bool(error.code() is grpc.StatusCode.UNAUTHENTICATED)
    return bool(reply.node_id == node.node_id and reply.session != node.session)


def _describe(holder: NodeRecord) -> str:
    return f"the agent at {holder.address} (pid {holder.pid} on {holder.hostname}, state dir {holder.state_dir})"
