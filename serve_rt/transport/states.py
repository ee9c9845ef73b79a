"""The lives of a stream and of a request on it, as tables. The README's pictures are printed from them."""

from __future__ import annotations

import enum

from serve_rt.model.transitions import Transitions


class StreamState(enum.Enum):
    """The client's view of one stream."""

    GREETING = "greeting"
    """Our Hello is under way; nothing may be opened."""
    READY = "ready"
    DRAINING = "draining"
    """The replica finishes what it has and takes nothing new."""
    CLOSED = "closed"


STREAM_TRANSITIONS: Transitions[StreamState] = {
    StreamState.GREETING: frozenset({StreamState.READY, StreamState.DRAINING, StreamState.CLOSED}),
    StreamState.READY: frozenset({StreamState.DRAINING, StreamState.CLOSED}),
    StreamState.DRAINING: frozenset({StreamState.CLOSED}),
    StreamState.CLOSED: frozenset(),
}


class RequestState(enum.Enum):
    """How far one request has come, as its caller knows."""

    QUEUED = "queued"
    """Waiting for a slot, in order of arrival."""
    RESERVED = "reserved"
    """Counted at a replica; its Open has not been handed to a write."""
    WRITTEN = "written"
    """On the wire: whether its work began is not known."""
    STARTED = "started"
    """The replica said so."""
    FIRST_BYTE = "first byte"
    """Something of the answer reached the caller."""
    DONE = "done"


_Q, _R, _W = RequestState.QUEUED, RequestState.RESERVED, RequestState.WRITTEN
_S, _F, _D = RequestState.STARTED, RequestState.FIRST_BYTE, RequestState.DONE

REQUEST_TRANSITIONS: Transitions[RequestState] = {
    _Q: frozenset({_R, _D}),
    _R: frozenset({_W, _Q, _D}),
    _W: frozenset({_S, _F, _Q, _D}),  # back to the queue: Rejected, or a retry
    _S: frozenset({_F, _Q, _D}),  # back to the queue: a retry of what is safe to run twice
    _F: frozenset({_D}),
    _D: frozenset(),
}
