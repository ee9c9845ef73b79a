"""Every error this runtime raises, in one tree.

A class says three things about itself: the gRPC status it travels under, the HTTP status a client sees, and whether
asking again can help. Foreign errors (grpc, OSError) are translated into this tree at the border, with `raise … from`.
Messages name the value, the limit and the fix; the reader of a message is a user of the runtime, not its author.
"""

from __future__ import annotations

import enum


class Outcome(enum.Enum):
    """What is known about a request that failed: may its work have begun?"""

    NOT_STARTED = "not started"
    STARTED = "started"
    UNKNOWN = "unknown"


class ServeException(Exception):
    """Base of all errors of the runtime (Ray's name `RayServeException` is an alias in `serve_rt.exceptions`)."""

    grpc_code = "INTERNAL"
    http_status = 500
    retryable = False


class ConfigError(ServeException, ValueError):
    """A setting, option or argument is wrong; nothing was changed."""

    grpc_code = "INVALID_ARGUMENT"
    http_status = 400


class NotFoundError(ServeException):
    grpc_code = "NOT_FOUND"
    http_status = 404


class ConflictError(ServeException):
    """Somebody else holds the name, the route prefix, the port or the node id."""

    grpc_code = "ALREADY_EXISTS"
    http_status = 409


class UnavailableError(ServeException):
    """The other side cannot be reached or cannot answer now."""

    grpc_code = "UNAVAILABLE"
    http_status = 503
    retryable = True


class NoClusterError(UnavailableError):
    """No agent answers at the address the driver or CLI looked at."""


class NotLeaderError(UnavailableError):
    """This controller is not the leader; `address` is the leader's, empty when none is known."""

    def __init__(self, message: str, *, epoch: int = 0, address: str = "") -> None:
        super().__init__(message)
        self.epoch = epoch
        self.address = address


class UnauthenticatedError(ServeException):
    """The peer did not show the cluster's token."""

    grpc_code = "UNAUTHENTICATED"
    http_status = 401


class FencedError(ServeException):
    """A newer leader exists: this one must not act any more."""

    grpc_code = "FAILED_PRECONDITION"


class DeadlineExceededError(ServeException, TimeoutError):
    grpc_code = "DEADLINE_EXCEEDED"
    http_status = 408


class InvalidTransition(ServeException):
    """A state machine was asked for a move that is not in its table; `history` is the object's recent past."""

    def __init__(self, subject: str, old: enum.Enum, new: enum.Enum, history: tuple[str, ...] = ()) -> None:
        past = " -> ".join(history) or "none"
        super().__init__(f"{subject}: {old.name} -> {new.name} is not allowed (history: {past})")
        self.history = history


# --- etcd ---------------------------------------------------------------------------------------------------------


class EtcdError(ServeException):
    """etcd answered with an error."""

    grpc_code = "UNAVAILABLE"
    http_status = 503


class EtcdUnavailableError(EtcdError, UnavailableError):
    """etcd did not answer in time; `maybe_applied` is true when a write was sent and its fate is not known."""

    def __init__(self, message: str, *, maybe_applied: bool = False) -> None:
        super().__init__(message)
        self.maybe_applied = maybe_applied


class EtcdCompactedError(EtcdError):
    """The revision asked for is compacted away, or the store went back in time: list again."""


class EtcdTooOldError(EtcdError):
    """The etcd found is older than the oldest supported version."""


class SessionLostError(EtcdError):
    """The lease is gone, or will be before a write could arrive."""


# --- requests -----------------------------------------------------------------------------------------------------


class RequestError(ServeException):
    """A request failed in the runtime, not in user code; `outcome` says whether its work may have begun."""

    outcome = Outcome.UNKNOWN


class BackPressureError(RequestError):
    """The queue of the deployment is full; nothing was started."""

    grpc_code = "RESOURCE_EXHAUSTED"
    http_status = 503
    retryable = True
    outcome = Outcome.NOT_STARTED

    def __init__(
        self,
        num_queued_requests: int,
        max_queued_requests: int,
        status_code: int = 503,
        retry_after_s: float | None = None,
    ) -> None:
        self.num_queued_requests = num_queued_requests
        self.max_queued_requests = max_queued_requests
        self.status_code = status_code
        self.retry_after_s = retry_after_s
        super().__init__(self.message)

    @property
    def message(self) -> str:
        return (
            "Request dropped due to backpressure "
            f"(num_queued_requests={self.num_queued_requests}, max_queued_requests={self.max_queued_requests})."
        )

    def __reduce__(self) -> tuple[type, tuple[int, int, int, float | None]]:
        return (type(self), (self.num_queued_requests, self.max_queued_requests, self.status_code, self.retry_after_s))


class QueueTimeoutError(RequestError, TimeoutError):
    """No replica had a free slot within `queue_timeout_s`; nothing was started."""

    grpc_code = "RESOURCE_EXHAUSTED"
    http_status = 503
    retryable = True
    outcome = Outcome.NOT_STARTED


class DeadlineUnreachableError(QueueTimeoutError):
    """The requests ahead in the queue leave no time for this one before its deadline; nothing was started."""


class DeploymentUnavailableError(RequestError):
    """The deployment failed to deploy, is being deleted, or does not exist any more."""

    grpc_code = "UNAVAILABLE"
    http_status = 503
    outcome = Outcome.NOT_STARTED

    def __init__(self, deployment_id: object, message: str = "") -> None:
        self.deployment_id = deployment_id
        self.message = message or f"{deployment_id} is unavailable because it failed to deploy."
        super().__init__(self.message)

    def __reduce__(self) -> tuple[type, tuple[object, str]]:
        return (type(self), (self.deployment_id, self.message))


class ReplicaUnavailableError(RequestError):
    """The replica chosen for the request is gone before the request was handed to it."""

    grpc_code = "UNAVAILABLE"
    http_status = 503
    retryable = True
    outcome = Outcome.NOT_STARTED

    def __init__(self, replica_id: object) -> None:
        super().__init__(f"Replica {replica_id} is unavailable.")
        self.replica_id = replica_id

    def __reduce__(self) -> tuple[type, tuple[object]]:
        return (type(self), (self.replica_id,))


class ReplicaDiedError(RequestError):
    """The stream to the replica broke after the request was written: `outcome` is STARTED or UNKNOWN."""

    grpc_code = "UNAVAILABLE"
    http_status = 502

    def __init__(self, replica_id: object, outcome: Outcome) -> None:
        super().__init__(f"Replica {replica_id} died while it had the request; the work: {outcome.value}.")
        self.replica_id = replica_id
        self.outcome = outcome

    def __reduce__(self) -> tuple[type, tuple[object, Outcome]]:
        return (type(self), (self.replica_id, self.outcome))


class WorkerCrashedError(ReplicaDiedError):
    """The worker of a task, or an actor, was lost while the call ran, and the call may not run again."""

    def __init__(self, replica_id: object, outcome: Outcome, message: str = "") -> None:
        super().__init__(replica_id, outcome)
        self.message = message or str(self)
        self.args = (self.message,)

    def __reduce__(self) -> tuple[type, tuple[object, Outcome, str]]:  # type: ignore[override]  # one more than above
        return (type(self), (self.replica_id, self.outcome, self.message))


class ActorDiedError(RequestError):
    """The actor has ended: it was killed, it failed, or its owner is gone; this call did not begin."""

    grpc_code = "UNAVAILABLE"
    http_status = 503
    outcome = Outcome.NOT_STARTED


class RequestCancelledError(RequestError):
    """The caller cancelled the request."""

    grpc_code = "CANCELLED"
    http_status = 499

    def __init__(self, request_id: str = "") -> None:
        super().__init__(f"Request {request_id} was cancelled.".replace("  ", " "))
        self.request_id = request_id

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return (type(self), (self.request_id,))


class gRPCStatusError(ServeException):  # Ray's name
    """What user code raised after it had set a gRPC status; for programs that name it, there is no gRPC ingress."""

    def __init__(self, original_exception: BaseException, code: object, details: str | None = None) -> None:
        super().__init__(f"{type(original_exception).__name__}: {original_exception}")
        self.original_exception = original_exception
        self.code = code
        """A `grpc.StatusCode`, or None."""
        self.details = details

    def __reduce__(self) -> tuple[type, tuple[BaseException, object, str | None]]:
        return (type(self), (self.original_exception, self.code, self.details))


class UserCodeError(RequestError):
    """What user code raised, as it came over the wire: a proxy makes 500 of it, a handle the user's own exception."""

    outcome = Outcome.STARTED

    def __init__(self, kind: str, message: str, pickled: bytes = b"", traceback: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.pickled = pickled
        """The exception; opened by handles only."""
        self.traceback = traceback

    def __reduce__(self) -> tuple[type, tuple[str, str, bytes, str]]:
        return (type(self), (self.kind, self.message, self.pickled, self.traceback))
