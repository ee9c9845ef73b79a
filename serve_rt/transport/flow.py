"""Credit: what a peer may send for one request before somebody has read it.

Both ends count the same way: a Data part costs its payload and PART_COST_BYTES. Open and Head may carry a small body
that is not counted; it is bounded by INLINE_BODY_BYTES.
"""

from __future__ import annotations

from serve_rt.errors import ServeException
from serve_rt.transport.limits import CREDIT_STEP_BYTES, PART_COST_BYTES, WINDOW_BYTES


class PeerFault(ServeException):
    """The peer broke the rules of the stream; it is cut."""


def cost(payload: bytes) -> int:
    return len(payload) + PART_COST_BYTES


class Inflow:
    """The reading side of one request's window."""

    __slots__ = ("allowed", "owed")

    def __init__(self) -> None:
        self.allowed = WINDOW_BYTES
        self.owed = 0
        """Read, not yet given back as credit."""

    def arrived(self, payload: bytes, request_id: int) -> None:
        """*Errors*: PeerFault when the peer sent more than it may."""
        self.allowed -= len(payload) + PART_COST_BYTES
        if self.allowed < 0:
            raise PeerFault(f"request {request_id}: {-self.allowed} bytes over its window of {WINDOW_BYTES}")

    def read(self, payload: bytes) -> int:
        """Count a part as read; return the credit to give now, 0 for none."""
        self.owed += len(payload) + PART_COST_BYTES
        if self.owed < CREDIT_STEP_BYTES:
            return 0
        given, self.owed = self.owed, 0
        self.allowed += given
        return given
