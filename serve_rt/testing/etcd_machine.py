"""etcd's rules as a plain state machine: revisions, transactions, leases, history. No I/O, time is an argument.

FakeEtcd (fake_etcd.py) puts an asyncio face and faults on it. The contract suite in tests/etcd runs the same random
operations here and on a real etcd and compares answers and events, so a rule that is wrong here fails there.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from serve_rt.errors import EtcdCompactedError, EtcdError, SessionLostError
from serve_rt.etcd import MAX_REQUEST_BYTES, MAX_TXN_OPS
from serve_rt.etcd.values import (
    Compare,
    CompareOp,
    CompareTarget,
    Delete,
    Event,
    EventKind,
    Events,
    KeyValue,
    Put,
    Snapshot,
)

FIRST_REVISION = 1
MIN_TTL_S = 1

_cluster_ids = itertools.count(1)


@dataclass(slots=True)
class _Lease:
    ttl_s: float
    expires_s: float
    keys: set[str] = field(default_factory=set)


class EtcdMachine:
    def __init__(self) -> None:
        self._last_lease = 0
        """Ids that etcd chooses are never given twice: a lease that is over must not look like another's."""
        self.wipe()

    def wipe(self) -> None:
        """An empty store with another cluster id, as after a lost disk."""
        self.cluster_id = next(_cluster_ids)
        self.revision = FIRST_REVISION
        self.compacted = 0
        self._keys: dict[str, KeyValue] = {}
        self._history: list[tuple[Event, ...]] = []  # of revision FIRST_REVISION + 1 and on
        self._leases: dict[int, _Lease] = {}

    # --- reading ----------------------------------------------------------------------------------------------------

    def get(self, key: str) -> KeyValue | None:
        return self._keys.get(key)

    def snapshot(self, prefix: str) -> Snapshot:
        keys = sorted(key for key in self._keys if key.startswith(prefix))
        return Snapshot({key: self._keys[key] for key in keys}, self.revision)

    def next_events(self, after: int, prefix: str) -> Events | None:
        """The first revision after `after` that touches the prefix."""
        for revision in range(max(after, FIRST_REVISION) + 1, self.revision + 1):
            events = self._history[revision - FIRST_REVISION - 1]
            if touching := tuple([event for event in events if event.kv.key.startswith(prefix)]):
                return Events(touching, revision)
        return None

    def keys_since(self, after: int) -> list[str]:
        """What was written after revision `after`."""
        return [event.kv.key for events in self._history[max(after - FIRST_REVISION, 0) :] for event in events]

    # --- writing ----------------------------------------------------------------------------------------------------

    def txn(self, compares: Sequence[Compare], then: Sequence[Put | Delete]) -> tuple[bool, int]:
        """Whether it was done, and how many keys were deleted."""
        _check_limits(compares, then)
        if not all(self._holds(compare) for compare in compares):
            return False, 0
        for operation in then:
            if isinstance(operation, Put) and operation.lease and operation.lease not in self._leases:
                raise SessionLostError("etcd: the lease does not exist (expired or revoked)")
        deleted = self._write(then)
        return True, deleted

    def _write(self, operations: Sequence[Put | Delete]) -> int:
        """All at the next revision; a write that changes nothing makes none."""
        revision = self.revision + 1
        events: list[Event] = []
        deleted = 0
        for operation in operations:
            if isinstance(operation, Put):
                events.append(self._put(operation, revision))
            else:
                gone = [self._delete(key, revision) for key in self._matching(operation)]
                events += gone
                deleted += len(gone)
        if events:
            self.revision = revision
            self._history.append(tuple(events))
        return deleted

    def _matching(self, delete: Delete) -> list[str]:
        if delete.prefix:
            return sorted(key for key in self._keys if key.startswith(delete.key))
        return [delete.key] if delete.key in self._keys else []

    def _put(self, put: Put, revision: int) -> Event:
        old = self._keys.get(put.key)
        if old is not None and old.lease:
            self._leases[old.lease].keys.discard(put.key)
        if put.lease:
            self._leases[put.lease].keys.add(put.key)
        created, version = (old.create_revision, old.version + 1) if old else (revision, 1)
        kv = self._keys[put.key] = KeyValue(put.key, put.value, created, revision, version, put.lease)
        return Event(EventKind.PUT, kv)

    def _delete(self, key: str, revision: int) -> Event:
        old = self._keys.pop(key)
        if old.lease:
            self._leases[old.lease].keys.discard(key)
        return Event(EventKind.DELETE, KeyValue(key, b"", 0, revision, 0, 0))

    def _holds(self, compare: Compare) -> bool:
        kv = self._keys.get(compare.key)
        if kv is None and compare.target is CompareTarget.VALUE:
            return False  # etcd's rule, for every operator
        return _compared(_side(kv, compare.target), compare.op, compare.value)

    def compact(self, revision: int) -> None:
        if revision > self.revision:
            raise EtcdError(f"etcd: required revision {revision} is a future revision, now {self.revision}")
        if revision <= self.compacted:
            raise EtcdCompactedError(f"etcd: revision {revision} has been compacted, up to {self.compacted}")
        self.compacted = revision

    # --- leases -----------------------------------------------------------------------------------------------------

    def grant(self, ttl_s: int, lease_id: int, now: float) -> int:
        if lease_id in self._leases:
            raise EtcdError(f"etcd: lease {lease_id} already exists")
        self._last_lease += 1
        while self._last_lease in self._leases:  # chosen by a client
            self._last_lease += 1
        lease_id = lease_id or self._last_lease
        ttl_s = max(ttl_s, MIN_TTL_S)
        self._leases[lease_id] = _Lease(ttl_s, now + ttl_s)
        return lease_id

    def keep_alive(self, lease_id: int, now: float) -> float:
        lease = self._leases.get(lease_id)
        if lease is None:
            raise SessionLostError(f"etcd: lease {lease_id} does not exist (expired or revoked)")
        lease.expires_s = now + lease.ttl_s
        return lease.ttl_s

    def renew_all(self, now: float) -> None:
        """What etcd does after a restart or an election of its own: every lease gets its whole time again."""
        for lease in self._leases.values():
            lease.expires_s = now + lease.ttl_s

    def revoke(self, lease_id: int) -> None:
        """Its keys go in one revision, in order."""
        lease = self._leases.get(lease_id)
        if lease is not None:
            self._write([Delete(key) for key in sorted(lease.keys)])
            del self._leases[lease_id]

    def expire(self, now: float) -> None:
        for lease_id in [each for each, lease in self._leases.items() if lease.expires_s <= now]:
            self.revoke(lease_id)

    def expiry_of(self, lease_id: int) -> float | None:
        """When it ends unless renewed; None when it has ended."""
        lease = self._leases.get(lease_id)
        return lease.expires_s if lease else None


def _check_limits(compares: Sequence[Compare], then: Sequence[Put | Delete]) -> None:
    if max(len(compares), len(then)) > MAX_TXN_OPS:
        raise EtcdError(f"etcd: too many operations in one transaction, the limit is {MAX_TXN_OPS}")
    puts = [operation for operation in then if isinstance(operation, Put)]
    if not all(put.key for put in puts):
        raise EtcdError("etcd: key is not provided")
    if sum(len(put.key) + len(put.value) for put in puts) > MAX_REQUEST_BYTES:
        raise EtcdError(f"etcd: request is too large, the limit is {MAX_REQUEST_BYTES} bytes")
    deletes = [operation for operation in then if isinstance(operation, Delete)]
    keys = {put.key for put in puts}
    if len(keys) < len(puts) or any(_covers(delete, key) for delete in deletes for key in keys):
        raise EtcdError("etcd: duplicate key given in one transaction")


def _covers(delete: Delete, key: str) -> bool:
    return key.startswith(delete.key) if delete.prefix else key == delete.key


def _side(kv: KeyValue | None, target: CompareTarget) -> int | bytes:
    if kv is None:
        return 0
    match target:
        case CompareTarget.VERSION:
            return kv.version
        case CompareTarget.CREATE:
            return kv.create_revision
        case CompareTarget.MOD:
            return kv.mod_revision
        case CompareTarget.LEASE:
            return kv.lease
        case CompareTarget.VALUE:
            return kv.value


def _compared(left: int | bytes, op: CompareOp, right: int | bytes) -> bool:
    if isinstance(left, bytes) and isinstance(right, bytes):
        order = (left > right) - (left < right)
    else:
        assert isinstance(left, int) and isinstance(right, int)
        order = (left > right) - (left < right)
    match op:
        case CompareOp.EQ:
            return order == 0
        case CompareOp.NE:
            return order != 0
        case CompareOp.GT:
            return order > 0
        case CompareOp.LT:
            return order < 0
