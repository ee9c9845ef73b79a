"""Typed writes: what an agent writes about its node, and how an application record is swapped.

Agents' writes compare that `/nodes/<node>` is still under their own lease: an agent that was replaced (or whose node
was taken over) cannot write about it any more. The leader's writes go through `serve_rt.controller.apply`, fenced.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from serve_rt.errors import SessionLostError
from serve_rt.etcd.contract import EtcdStore
from serve_rt.etcd.keys import Keys
from serve_rt.etcd.values import Compare, Delete, KeyValue, Put, TxnResult, absent, lease_is
from serve_rt.model.ids import BlobDigest, NodeId, ReplicaId
from serve_rt.model.node import NodeRecord
from serve_rt.model.proxies import ProxyRecord
from serve_rt.model.replica import Observed
from serve_rt.wire.records import decode, encode

OPS_PER_TXN = 120
"""Below etcd's limit of 128, with room for comparisons."""


@dataclass(frozen=True, slots=True)
class Registered:
    won: bool
    revision: int
    holder: KeyValue | None
    """Who holds the node id instead; `holder.lease` is what `over_lease` takes, its value a NodeRecord."""

    def holder_record(self) -> NodeRecord | None:
        if self.holder is None:
            return None
        return decode(self.holder.value, NodeRecord, source=self.holder.key)


class NodeWriter:
    """An agent's pen, for one node under one lease. A new session is a new NodeWriter."""

    def __init__(self, store: EtcdStore, keys: Keys, node: NodeId, lease: int) -> None:
        self._store, self._keys, self._node, self.lease = store, keys, node, lease

    async def register(self, record: NodeRecord, *, over_lease: int = 0) -> Registered:
        """Write `/nodes/<node>` under our lease if nobody holds it, or if `over_lease` does (a predecessor on this very
        machine, found by `find`)."""
        key = self._keys.node(self._node)
        free = lease_is(key, over_lease) if over_lease else absent(key)
        result = await self._store.txn([free], [Put(key, encode(record), self.lease)], [key])
        if result.succeeded:
            return Registered(True, result.revision, None)
        return Registered(False, result.revision, result.found[0] if result.found else None)

    async def propose_proxy(self, record: ProxyRecord) -> ProxyRecord:
        """Write `/proxy` if nobody has; what it says then."""
        key = self._keys.proxy
        result = await self._store.txn([absent(key)], [Put(key, encode(record))], [key])
        if result.succeeded or not result.found:
            return record
        return decode(result.found[0].value, ProxyRecord, source=key)

    async def update(self, record: NodeRecord) -> int:
        """Rewrite our registration. *Errors*: SessionLostError when it is not ours any more."""
        return await self._write([Put(self._keys.node(self._node), encode(record), self.lease)])

    async def observe(self, observed: Iterable[Observed], gone: Iterable[ReplicaId] = ()) -> int:
        """Write what runs and delete what is gone; the revision of the last write. Safe to repeat.

        *Errors*: SessionLostError when the node is not registered under our lease any more: register, then repeat.
        """
        ops: list[Put | Delete] = [
            Put(self._keys.observed(self._node, record.replica_id), encode(record)) for record in observed
        ]
        ops += [Delete(self._keys.observed(self._node, replica)) for replica in gone]
        return await self._write(ops)

    async def hold_blobs(self, held: Iterable[BlobDigest], dropped: Iterable[BlobDigest] = ()) -> int:
        """Under the registration's lease: who is gone gives nobody anything, and each registration says all anew."""
        ops: list[Put | Delete] = [Put(self._keys.blob(digest, self._node), b"{}", self.lease) for digest in held]
        ops += [Delete(self._keys.blob(digest, self._node)) for digest in dropped]
        return await self._write(ops)

    async def leave(self) -> None:
        """Delete our registration and what we said about the node, in that session only."""
        key = self._keys.node(self._node)
        ops = [Delete(self._keys.observed_prefix(self._node), prefix=True), Delete(key)]
        await self._store.txn([self._ours()], ops)

    def _ours(self) -> Compare:
        return lease_is(self._keys.node(self._node), self.lease)

    async def _write(self, ops: Sequence[Put | Delete]) -> int:
        revision = 0
        for start in range(0, len(ops), OPS_PER_TXN):
            result: TxnResult = await self._store.txn([self._ours()], ops[start : start + OPS_PER_TXN])
            if not result.succeeded:
                raise SessionLostError(f"node {self._node} is not registered under lease {self.lease:x} any more")
            revision = result.revision
        return revision
