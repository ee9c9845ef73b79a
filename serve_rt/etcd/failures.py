"""What a failed call means: may it be asked again, and what do we tell the caller?

The rule that matters: a write is repeated only when it was *certainly not sent*. A blind retry of a transaction whose
answer was lost is a lost update (Jepsen found it in jetcd 0.8.2).
"""

from __future__ import annotations

import enum

import grpc
import grpc.aio

from serve_rt.errors import EtcdCompactedError, EtcdError, EtcdUnavailableError, SessionLostError

# Said by gRPC when it had no connection to send on. A connection that breaks under a call says something else.
_NOT_SENT = ("failed to connect to all addresses", "DNS resolution failed", "empty address list")
# Said by etcd before it proposes anything.
_NOT_PROPOSED = ("etcdserver: too many requests",)
_TRANSIENT = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)


class Fate(enum.Enum):
    NOT_SENT = "not sent: anything may be repeated"
    UNKNOWN = "sent, no answer: only what is idempotent may be repeated"
    STALE_TOKEN = "the auth token is not known any more: ask for a new one, then repeat"
    REFUSED = "etcd said no"


def fate_of(error: grpc.aio.AioRpcError) -> Fate:
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.UNAUTHENTICATED or is_stale_token(details):
        return Fate.STALE_TOKEN
    if code is grpc.StatusCode.UNAVAILABLE and details.startswith(_NOT_SENT):
        return Fate.NOT_SENT
    if details.startswith(_NOT_PROPOSED):
        return Fate.NOT_SENT
    return Fate.UNKNOWN if code in _TRANSIENT else Fate.REFUSED


def is_stale_token(reason: str) -> bool:
    """Simple tokens die with the server and after five idle minutes; any token when users or roles change."""
    return "invalid auth token" in reason or "revision of auth store is old" in reason or "auth: token" in reason


def translated(what: str, error: grpc.aio.AioRpcError, fate: Fate, *, write: bool) -> EtcdError:
    """The error of our tree for a call that is given up."""
    details = error.details() or error.code().name
    match fate:
        case Fate.NOT_SENT:
            return EtcdUnavailableError(f"etcd {what} failed, nothing was sent: {details}")
        case Fate.UNKNOWN:
            return EtcdUnavailableError(f"etcd {what} got no answer: {details}", maybe_applied=write)
    if "has been compacted" in details:
        return EtcdCompactedError(f"etcd {what}: {details}")
    if "requested lease not found" in details:
        return SessionLostError(f"etcd {what}: the lease does not exist (expired or revoked)")
    return EtcdError(f"etcd {what} was refused ({error.code().name}): {details}")
