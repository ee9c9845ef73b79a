"""What etcd holds and says, as values: keys, snapshots, events, transactions.

Keys are text, values are bytes. These are the only shapes that cross the border of this package, and both stores (the
client of a real etcd, and the fake in serve_rt.testing) speak in them, so nobody above ever sees a protobuf message.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KeyValue:
    key: str
    value: bytes
    create_revision: int
    """When the key came to be; a deleted and re-made key has a new one, which makes it a fencing token."""
    mod_revision: int
    version: int
    """How often it was written since it was created, from 1."""
    lease: int
    """0: none."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All keys under a prefix at one revision: it replaces everything the reader knew."""

    items: Mapping[str, KeyValue]
    revision: int
    went_back: bool = False
    """The store was wiped or restored: revisions seen before it mean nothing now."""


class EventKind(enum.Enum):
    PUT = "put"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Event:
    kind: EventKind
    kv: KeyValue
    """For DELETE the value is empty and mod_revision is the revision of the delete."""


@dataclass(frozen=True, slots=True)
class Events:
    """One or more whole revisions, in order: what one transaction wrote is never torn apart."""

    events: tuple[Event, ...]
    revision: int


@dataclass(frozen=True, slots=True)
class Put:
    key: str
    value: bytes
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    key: str
    prefix: bool = False


class CompareTarget(enum.Enum):
    """Values are etcd's wire numbers."""

    VERSION = 0
    CREATE = 1
    MOD = 2
    VALUE = 3
    LEASE = 4


class CompareOp(enum.Enum):
    """Values are etcd's wire numbers."""

    EQ = 0
    GT = 1
    LT = 2
    NE = 3


@dataclass(frozen=True, slots=True)
class Compare:
    """`target` of `key` `op` `value`. A key that is not there has create, mod, version and lease 0, and no value."""

    key: str
    target: CompareTarget
    value: int | bytes
    op: CompareOp = CompareOp.EQ

    def __post_init__(self) -> None:
        if isinstance(self.value, bytes) is not (self.target is CompareTarget.VALUE):
            raise TypeError(f"compare of {self.target.name} of {self.key!r} with {type(self.value).__name__}")


def absent(key: str) -> Compare:
    return Compare(key, CompareTarget.CREATE, 0)


def created_at(key: str, revision: int) -> Compare:
    return Compare(key, CompareTarget.CREATE, revision)


def modified_at(key: str, revision: int) -> Compare:
    """Compare-and-swap: nobody wrote the key since we read it at `revision`."""
    return Compare(key, CompareTarget.MOD, revision)


def value_is(key: str, value: bytes) -> Compare:
    return Compare(key, CompareTarget.VALUE, value)


def lease_is(key: str, lease: int) -> Compare:
    return Compare(key, CompareTarget.LEASE, lease)


@dataclass(frozen=True, slots=True)
class TxnResult:
    succeeded: bool
    revision: int
    found: tuple[KeyValue, ...] = ()
    """After a failed comparison: those of the `read_on_failure` keys that exist, as they are."""


@dataclass(frozen=True, slots=True)
class EtcdStatus:
    version: str
    cluster_id: int
    db_size: int
    """Bytes on disk, compacted space included."""
    revision: int


def range_end(key: str, *, prefix: bool) -> bytes:
    """etcd's end of range: empty for the one key, the next key after all that begin with it for a prefix."""
    if not prefix:
        return b""
    stem = key.encode()  # text never ends in 0xff, so the last byte can be raised
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else b"\0"


def range_start(key: str) -> bytes:
    """etcd has no empty key: the whole store begins at NUL."""
    return key.encode() or b"\0"
