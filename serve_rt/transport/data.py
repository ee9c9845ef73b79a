"""A Data part that has arrived, as plain Python; and how one is found in a large frame without copying it about.

protobuf copies a payload when it parses a frame and again each time `payload` is read. Everybody behind the stream
therefore gets a `Data`, whose payload was read once. Of a frame of large parts protobuf reads only what is around the
payloads: these are cut out of the frame's bytes, one copy each. Whatever is laid out in another way than
serve_rt.transport.parts does is left to protobuf, which also says what is malformed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from google.protobuf.message import DecodeError

from serve_rt.pb import stream_pb2 as pb
from serve_rt.transport.limits import LARGE_PART_BYTES
from serve_rt.transport.parts import tag

_ID, _PAYLOAD = tag(pb.Data, "id", 0)[0], tag(pb.Data, "payload")[0]


class Data:
    __slots__ = ("code", "end", "id", "kind", "payload", "reason")

    def __init__(
        self, request_id: int, payload: bytes, end: bool, kind: int = pb.DATA_KIND_BODY, code: int = 0, reason: str = ""
    ) -> None:
        self.id = request_id
        self.payload = payload
        self.end = end
        self.kind = kind
        self.code = code
        self.reason = reason


def read_data(part: pb.Data) -> Data:
    return Data(part.id, part.payload, part.end, part.kind, part.code, part.reason)


class _Parts(Protocol):
    @property
    def parts(self) -> Iterable[Any]: ...  # Any: ClientPart or ServerPart


class _Message(Protocol):
    @staticmethod
    def FromString(data: bytes) -> Any: ...  # Any: of every generated class


def reader(frame: type[_Parts], part: type[_Message]) -> Callable[[bytes], list[Any] | None]:
    """What reads a large frame as its parts: each a `Data`, or protobuf's; None where protobuf must read all of it."""
    outer, inner = tag(frame, "parts")[0], tag(part, "data")[0]

    def read(data: bytes) -> list[Any] | None:
        found: list[Any] = []
        at = 0
        try:
            while at < len(data):
                if data[at] != outer:
                    return None
                start, at = _length(data, at + 1)
                large = _cut(data, start, at, inner) if at - start >= LARGE_PART_BYTES else None
                found.append(large if large is not None else part.FromString(data[start:at]))
        except (IndexError, DecodeError):
            return None
        return found if at == len(data) else None

    return read


def _cut(data: bytes, start: int, end: int, inner: int) -> Data | None:
    """The Data in data[start:end], if it is one that we know to read."""
    if data[start] != inner:
        return None
    start, inner_end = _length(data, start + 1)
    if inner_end != end or data[start] != _ID:
        return None
    payload_at = start + 1
    while data[payload_at] > 127:
        payload_at += 1
    payload_at += 1
    if data[payload_at] != _PAYLOAD:
        return None
    payload_start, payload_end = _length(data, payload_at + 1)
    if payload_end > end:
        return None
    around = pb.Data.FromString(data[start:payload_at] + data[payload_end:end])
    if around.payload:
        return None
    return Data(around.id, data[payload_start:payload_end], around.end, around.kind, around.code, around.reason)


def _length(data: bytes, at: int) -> tuple[int, int]:
    """Where what follows its length at `at` begins and ends."""
    size = shift = 0
    while (byte := data[at]) > 127:
        size |= (byte & 127) << shift
        shift += 7
        at += 1
        if shift > 63:
            raise DecodeError("a length of more than ten bytes")
    at += 1
    return at, at + (size | byte << shift)
