"""Parts as bytes, ready to be laid side by side in a frame.

A frame is a protobuf message whose only content is a repeated field, so its bytes are the bytes of its parts one after
the other. Each part is encoded once, when it is made: its size is known, a frame is one `join`, and no intermediate
message objects are built. The tests decode what is made here with the generated classes.
"""

from __future__ import annotations

from collections.abc import Callable

from serve_rt.pb import stream_pb2 as pb

Wrap = Callable[[bytes], bytes]
Around = Callable[[int, int, bool], bytes]
_ONE_BYTE = [bytes((n,)) for n in range(128)]


def varint(value: int) -> bytes:
    if value < 128:
        return _ONE_BYTE[value]
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _wrapper(frame: type, part: type, kind: str) -> Wrap:
    """What puts an encoded `kind` message into its part, and that into the frame's repeated field."""
    outer = tag(frame, "parts")
    inner = tag(part, kind)

    def wrap(message: bytes) -> bytes:
        size = len(message)
        if size < 124:  # the usual: both lengths take one byte
            return outer + _ONE_BYTE[size + 2] + inner + _ONE_BYTE[size] + message
        length = varint(size)
        return b"".join((outer, varint(size + 1 + len(length)), inner, length, message))

    return wrap


def tag(message: type, field: str, wire_type: int = 2) -> bytes:
    number = message.DESCRIPTOR.fields_by_name[field].number  # type: ignore[attr-defined]  # of every generated class
    return varint(number << 3 | wire_type)


def _around(frame: type, part: type) -> Around:
    """What stands before a payload of body bytes, from the frame's field on: the payload follows uncopied."""
    outer = tag(frame, "parts")
    inner = tag(part, "data")

    def before(request_id: int, size: int, end: bool) -> bytes:
        head = b"".join((b"\x08", varint(request_id), _DATA_PAYLOAD, varint(size)))
        message = len(head) + size + (len(DATA_END) if end else 0)
        length = varint(message)
        return b"".join((outer, varint(message + 1 + len(length)), inner, length, head))

    return before


def _client(kind: str) -> Wrap:
    return _wrapper(pb.ClientFrame, pb.ClientPart, kind)


def _server(kind: str) -> Wrap:
    return _wrapper(pb.ServerFrame, pb.ServerPart, kind)


# client → replica
open_part = _client("open")
client_data = _client("data")
cancel_part = _client("cancel")
client_credit = _client("credit")
ping_part = _client("ping")
goodbye_part = _client("goodbye")

# replica → client
accepted_part = _server("accepted")
rejected_part = _server("rejected")
head_part = _server("head")
server_data = _server("data")
error_part = _server("error")
ended_part = _server("ended")
server_credit = _server("credit")
load_part = _server("load")
pong_part = _server("pong")
drain_part = _server("drain")
models_part = _server("models")
window_part = _server("window")

_OPEN_HTTP = tag(pb.Open, "http")
_OPEN_BODY = tag(pb.Open, "body")
_OPEN_END = b"\x58\x01"


def http_of_open(head: bytes) -> bytes:
    """An encoded HttpHead as a field of an Open."""
    return _OPEN_HTTP + varint(len(head)) + head


_ANSWER_WINDOW, _BODY_WINDOW = b"\x60", b"\x68"


def encode_windows(answer: int, body: int) -> bytes:
    """What an Open says of windows that are not the usual ones: a part of its `rest`."""
    return b"".join((_ANSWER_WINDOW, varint(answer), _BODY_WINDOW, varint(body)))


def encode_open(request_id: int, time_left_ms: int, rest: bytes, body: bytes, end: bool) -> bytes:
    """An Open message; `rest` holds its other fields, encoded before (protobuf lets fields stand in any order)."""
    pieces = [b"\x08", varint(request_id), rest]
    if time_left_ms:
        pieces += (b"\x10", varint(time_left_ms))
    if body:
        pieces += (_OPEN_BODY, varint(len(body)), body)
    if end:
        pieces.append(_OPEN_END)
    return b"".join(pieces)


_DATA_PAYLOAD = tag(pb.Data, "payload")
DATA_END = b"\x18\x01"
AROUND: dict[Wrap, Around] = {
    client_data: _around(pb.ClientFrame, pb.ClientPart),
    server_data: _around(pb.ServerFrame, pb.ServerPart),
}
"""Of large body bytes, laid into a frame without being encoded first; DATA_END follows the last."""


def encode_data(request_id: int, payload: bytes | memoryview, end: bool, kind: int, code: int, reason: str) -> bytes:
    """A Data message. Body bytes, the common kind, are laid out by hand."""
    if kind or code or reason:
        message = pb.Data(id=request_id, payload=bytes(payload), end=end, kind=kind, code=code, reason=reason)  # type: ignore[arg-type]  # an int is a DataKind on the wire
        return message.SerializeToString()
    last = DATA_END if end else b""
    return b"".join((b"\x08", varint(request_id), _DATA_PAYLOAD, varint(len(payload)), payload, last))
