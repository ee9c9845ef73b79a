"""WebSocket messages larger than a piece travel as several Data parts; here they become one again.

Body bytes may be cut anywhere and need no joining. Items of a streamed call are joined by the handle, which also knows
about items that the replica itself had cut.
"""

from __future__ import annotations

from typing import TypeGuard

from serve_rt.pb import stream_pb2 as pb
from serve_rt.transport.data import Data
from serve_rt.transport.flow import PeerFault
from serve_rt.transport.outbox import MORE_FOLLOWS

MAX_MESSAGE_BYTES = 64 << 20
WEBSOCKET_KINDS = frozenset({pb.DATA_KIND_WS_TEXT, pb.DATA_KIND_WS_BINARY})


def whole_message(part: pb.Head | Data) -> TypeGuard[Data]:
    """One that needs no joining, unless the pieces of another came before it."""
    return isinstance(part, Data) and part.kind in WEBSOCKET_KINDS and not (part.code or part.end)


class MessageJoiner:
    __slots__ = ("_pieces", "_size")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0

    @property
    def amid(self) -> bool:
        """A message has begun and is not whole."""
        return bool(self._pieces)

    def add(self, part: Data) -> Data | None:
        """The whole message that `part` completes, if it does.

        *Errors*: PeerFault for a message over MAX_MESSAGE_BYTES.
        """
        if part.code == MORE_FOLLOWS:
            self._pieces.append(part.payload)
            self._size += len(part.payload)
            if self._size > MAX_MESSAGE_BYTES:
                raise PeerFault(f"a WebSocket message of more than {MAX_MESSAGE_BYTES} bytes: send it in smaller ones")
            return None
        if not self._pieces:
            return part
        self._pieces.append(part.payload)
        whole = Data(part.id, b"".join(self._pieces), part.end, part.kind)
        self._pieces, self._size = [], 0
        return whole
