"""EtcdClient: a thin asyncio client of etcd v3, the real `EtcdStore`.

Agents and controllers own one each. It turns values into wire messages and back; calls and retries are in rpc.py, the
meaning of failures in failures.py, watches in watch.py. Leases are kept alive by lease.py, not here.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any

from serve_rt.errors import SessionLostError
from serve_rt.etcd import messages, rpc
from serve_rt.etcd.channel import EtcdTls
from serve_rt.etcd.values import (
    Compare,
    CompareTarget,
    Delete,
    EtcdStatus,
    Event,
    EventKind,
    Events,
    KeyValue,
    Put,
    Snapshot,
    TxnResult,
    range_end,
    range_start,
)
from serve_rt.etcd.watch import Listing, list_then_watch

PAGE_KEYS = 1000
SILENCE_S = 8.0
"""A watch without a word for this long, asked in between whether it lives, is opened anew."""


class EtcdClient:
    """*Resources*: the creator awaits `close()`, after closing watches and sessions on it."""

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        tls: EtcdTls | None = None,
        user: str | None = None,
        password: str | None = None,
        timeout_s: float = 5.0,
        page_keys: int = PAGE_KEYS,
        silence_s: float = SILENCE_S,
    ) -> None:
        self._rpc = rpc.Rpc(endpoints, tls=tls, user=user, password=password, timeout_s=timeout_s)
        self._endpoints = tuple(endpoints)
        self._page_keys = page_keys
        self._silence_s = silence_s

    # --- keys -----------------------------------------------------------------------------------------------------

    async def get(self, key: str) -> KeyValue | None:
        answer = await self._rpc.call(rpc.RANGE, messages.RangeRequest(key=range_start(key)))
        return _key_value(answer.kvs[0]) if answer.kvs else None

    async def list(self, prefix: str) -> Snapshot:
        return (await self._list(prefix)).snapshot

    async def _list(self, prefix: str) -> Listing:
        """Later pages are read at the revision of the first, so that together they are one moment."""
        items: dict[str, KeyValue] = {}
        start, end = range_start(prefix), range_end(prefix, prefix=True)
        revision = cluster_id = 0
        while True:
            request = messages.RangeRequest(key=start, range_end=end, limit=self._page_keys, revision=revision)
            page = await self._rpc.call(rpc.RANGE, request)
            if not revision:
                revision, cluster_id = page.header.revision, page.header.cluster_id
            items.update((kv.key, kv) for kv in map(_key_value, page.kvs))
            if not page.more:
                return Listing(Snapshot(items, revision), cluster_id)
            start = page.kvs[-1].key + b"\0"

    async def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        answer = await self._rpc.call(rpc.PUT, _put(Put(key, value, lease)))
        return int(answer.header.revision)

    async def delete(self, key: str, *, prefix: bool = False) -> int:
        answer = await self._rpc.call(rpc.DELETE_RANGE, _delete(Delete(key, prefix)))
        return int(answer.deleted)

    async def txn(
        self, compares: Sequence[Compare], then: Sequence[Put | Delete], read_on_failure: Sequence[str] = ()
    ) -> TxnResult:
        reads = [
            messages.RequestOp(request_range=messages.RangeRequest(key=range_start(key))) for key in read_on_failure
        ]
        request = messages.TxnRequest(
            compare=[_compare(compare) for compare in compares], success=[_operation(op) for op in then], failure=reads
        )
        answer = await self._rpc.call(rpc.TXN, request)
        found: tuple[KeyValue, ...] = ()
        if not answer.succeeded:
            found = tuple(_key_value(kv) for response in answer.responses for kv in response.response_range.kvs)
        return TxnResult(bool(answer.succeeded), int(answer.header.revision), found)

    def watch(self, prefix: str) -> AsyncGenerator[Snapshot | Events, None]:
        return list_then_watch(self._rpc, self._list, prefix, _event, self._silence_s)

    # --- leases ---------------------------------------------------------------------------------------------------

    async def grant(self, ttl_s: int, lease_id: int = 0) -> int:
        answer = await self._rpc.call(rpc.LEASE_GRANT, messages.LeaseGrantRequest(TTL=ttl_s, ID=lease_id))
        return int(answer.ID)

    async def keep_alive(self, lease: int, *, timeout_s: float | None = None) -> float:
        request = messages.LeaseKeepAliveRequest(ID=lease)
        answer = await self._rpc.call(rpc.LEASE_KEEP_ALIVE, request, timeout_s)
        if answer.TTL <= 0:
            raise SessionLostError(f"lease {lease:x} does not exist (expired or revoked)")
        return float(answer.TTL)

    async def revoke(self, lease: int, *, timeout_s: float | None = None) -> None:
        try:
            await self._rpc.call(rpc.LEASE_REVOKE, messages.LeaseRevokeRequest(ID=lease), timeout_s)
        except SessionLostError:
            pass  # gone already, which is what was asked for

    # --- the store itself -----------------------------------------------------------------------------------------

    async def status(self) -> EtcdStatus:
        answer = await self._rpc.call(rpc.STATUS, messages.StatusRequest())
        return EtcdStatus(
            answer.version, int(answer.header.cluster_id), int(answer.dbSize), int(answer.header.revision)
        )

    async def compact(self, revision: int) -> None:
        await self._rpc.call(rpc.COMPACT, messages.CompactionRequest(revision=revision))

    async def close(self) -> None:
        await self._rpc.close()

    def __repr__(self) -> str:
        return f"<EtcdClient {','.join(self._endpoints)} | now {self._rpc.endpoint.address}>"


def _key_value(kv: Any) -> KeyValue:
    return KeyValue(kv.key.decode(), kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease)


def _event(event: Any) -> Event:
    return Event(EventKind.DELETE if event.type == 1 else EventKind.PUT, _key_value(event.kv))


def _put(put: Put) -> Any:
    return messages.PutRequest(key=put.key.encode(), value=put.value, lease=put.lease)


def _delete(delete: Delete) -> Any:
    return messages.DeleteRangeRequest(
        key=range_start(delete.key), range_end=range_end(delete.key, prefix=delete.prefix)
    )


def _operation(operation: Put | Delete) -> Any:
    if isinstance(operation, Put):
        return messages.RequestOp(request_put=_put(operation))
    return messages.RequestOp(request_delete_range=_delete(operation))


_COMPARE_FIELDS = {
    CompareTarget.VERSION: "version",
    CompareTarget.CREATE: "create_revision",
    CompareTarget.MOD: "mod_revision",
    CompareTarget.VALUE: "value",
    CompareTarget.LEASE: "lease",
}


def _compare(compare: Compare) -> Any:
    return messages.Compare(
        key=compare.key.encode(),
        target=compare.target.value,
        result=compare.op.value,
        **{_COMPARE_FIELDS[compare.target]: compare.value},
    )
