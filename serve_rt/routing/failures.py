"""An Error part as an exception of the tree: what user code raised, or what the runtime in the replica says."""

from __future__ import annotations

from serve_rt import errors
from serve_rt.errors import Outcome, ReplicaDiedError, RequestError, ServeException, UserCodeError
from serve_rt.pb import stream_pb2 as pb

USER_ERROR = "UserError"
_OUTCOMES = {
    pb.ERROR_STATE_NOT_STARTED: Outcome.NOT_STARTED,
    pb.ERROR_STATE_STARTED: Outcome.STARTED,
    pb.ERROR_STATE_UNKNOWN: Outcome.UNKNOWN,
}


def error_of(error: pb.Error, replica_id: str) -> ServeException:
    outcome = _OUTCOMES.get(error.state, Outcome.UNKNOWN)
    if error.kind == ReplicaDiedError.__name__:
        return ReplicaDiedError(replica_id, outcome)
    kind = getattr(errors, error.kind, None)
    if error.kind == USER_ERROR or error.pickled or not (isinstance(kind, type) and issubclass(kind, ServeException)):
        return UserCodeError(error.kind, error.message, error.pickled, error.traceback)
    try:
        made: ServeException = kind(error.message)
    except TypeError:  # a class with other arguments: its message must do
        made = RequestError(error.message)
    if isinstance(made, RequestError):
        made.outcome = outcome
    return made
