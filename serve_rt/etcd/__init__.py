"""etcd for the rest of the system: values, the store's contract, its client, sessions, elections, keys.

Start in contract.py; README.md has the walk. Nothing here knows what a record means.
"""

from serve_rt.etcd.channel import EtcdTls
from serve_rt.etcd.client import EtcdClient
from serve_rt.etcd.contract import MAX_REQUEST_BYTES, MAX_TXN_OPS, EtcdStore
from serve_rt.etcd.election import Election, Leadership
from serve_rt.etcd.keys import Keys
from serve_rt.etcd.lease import Session
from serve_rt.etcd.values import (
    Compare,
    CompareOp,
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
    absent,
    created_at,
    lease_is,
    modified_at,
    value_is,
)
from serve_rt.etcd.version import judge_version

__all__ = [
    "MAX_REQUEST_BYTES",
    "MAX_TXN_OPS",
    "Compare",
    "CompareOp",
    "CompareTarget",
    "Delete",
    "Election",
    "EtcdClient",
    "EtcdStatus",
    "EtcdStore",
    "EtcdTls",
    "Event",
    "EventKind",
    "Events",
    "KeyValue",
    "Keys",
    "Leadership",
    "Put",
    "Session",
    "Snapshot",
    "TxnResult",
    "absent",
    "created_at",
    "judge_version",
    "lease_is",
    "modified_at",
    "value_is",
]
