"""The store as the rest of the system is typed against it.

`EtcdClient` talks to a real etcd, `serve_rt.testing.fake_etcd.FakeEtcd` keeps everything in memory; one suite in
tests/etcd holds both to what is written here.

*Errors*, for every call: EtcdUnavailableError when no endpoint answered in time (`maybe_applied` when a write was sent
and its fate is not known: read again before repeating it), EtcdError when etcd refused.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from serve_rt.etcd.values import Compare, Delete, EtcdStatus, Events, KeyValue, Put, Snapshot, TxnResult

MAX_TXN_OPS = 128
"""etcd's default limit for comparisons, and for operations, of one transaction; a leader's own ops: one less."""
MAX_REQUEST_BYTES = 1_536 * 1024
"""etcd's default limit for one request."""


class EtcdStore(Protocol):
    async def get(self, key: str) -> KeyValue | None: ...

    async def list(self, prefix: str) -> Snapshot:
        """All keys that begin with `prefix`, in order, all pages at one revision."""
        ...

    async def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        """The revision of the write. *Errors*: SessionLostError when the lease does not exist."""
        ...

    async def delete(self, key: str, *, prefix: bool = False) -> int:
        """How many keys were deleted."""
        ...

    async def txn(
        self, compares: Sequence[Compare], then: Sequence[Put | Delete], read_on_failure: Sequence[str] = ()
    ) -> TxnResult:
        """Do `then` if all `compares` hold, at one revision; otherwise read. A key may be written once only."""
        ...

    def watch(self, prefix: str) -> AsyncGenerator[Snapshot | Events, None]:
        """First a Snapshot, then Events for ever, whole revisions, none lost, none twice.

        It outlives restarts and outages. Another Snapshot comes when the gap cannot be filled (compaction) or when the
        store went back in time. *Resources*: close it (`contextlib.aclosing`). *Errors*: EtcdError when refused for
        good (permissions).
        """
        ...

    async def grant(self, ttl_s: int, lease_id: int = 0) -> int:
        """A new lease of at least `ttl_s`; etcd chooses the id when it is 0."""
        ...

    async def keep_alive(self, lease: int, *, timeout_s: float | None = None) -> float:
        """Renew: the seconds it has from now. *Errors*: SessionLostError when the lease does not exist."""
        ...

    async def revoke(self, lease: int, *, timeout_s: float | None = None) -> None:
        """End the lease and delete its keys; no error when it is gone already."""
        ...

    async def status(self) -> EtcdStatus: ...

    async def compact(self, revision: int) -> None:
        """Forget history before `revision`. *Errors*: EtcdCompactedError when that is done already."""
        ...

    async def close(self) -> None: ...
