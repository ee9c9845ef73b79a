"""A request's head as the Open message that goes to the replica, laid out by hand.

Building the protobuf objects and copying one into the other cost more than everything else the proxy did with a head.
What is the same for all requests of a connection to one application is encoded once. The tests read it back.
"""

from __future__ import annotations

from typing import Any

from serve_rt.pb import stream_pb2 as pb
from serve_rt.proxy.headers import RequestHeaders
from serve_rt.proxy.routes import Target
from serve_rt.transport.parts import http_of_open, varint

_SHORT = [varint(n) for n in range(1024)]


def _tag(message: type, name: str) -> bytes:
    return varint(message.DESCRIPTOR.fields_by_name[name].number << 3 | 2)  # type: ignore[attr-defined]  # generated


_METHOD, _PATH, _RAW_PATH, _QUERY, _VERSION, _HEADER = (
    _tag(pb.HttpHead, name) for name in ("method", "path", "raw_path", "query_string", "http_version", "headers")
)
_REQUEST_ID, _MODEL, _SESSION = (_tag(pb.Open, name) for name in ("request_id", "multiplexed_model_id", "session_id"))
_REQUEST_ID_HEADER = _HEADER + varint(len(b"x-request-id")) + b"x-request-id"
_FORWARDED_HOST_HEADER = _HEADER + varint(len(b"x-forwarded-host")) + b"x-forwarded-host"


def _field(tag: bytes, value: bytes) -> bytes:
    size = len(value)
    return tag + (_SHORT[size] if size < 1024 else varint(size)) + value


def fixed_part(scope: dict[str, Any], target: Target, forwarded: tuple[bytes, ...]) -> tuple[bytes, bytes]:
    """What of an Open, and of its HttpHead, every request of this connection to `target` has in common."""
    client, server = scope.get("client"), scope.get("server")
    head = pb.HttpHead(
        type=scope["type"],
        root_path=target.root_path,
        scheme=scope["scheme"],
        client_host=client[0] if client else "",
        client_port=client[1] if client else 0,
        server_host=server[0] if server else "",
        server_port=(server[1] or 0) if server else 0,
        headers=forwarded,
    )
    return pb.Open(app=target.app.name, route=target.prefix).SerializeToString(), head.SerializeToString()


def open_of_request(
    scope: dict[str, Any], headers: RequestHeaders, request_id: bytes, fixed: tuple[bytes, bytes]
) -> bytes:
    """An Open without id, time and body. Order inside of it is free but for the headers' own."""
    for_open, for_head = fixed
    short = _SHORT
    parts = [
        for_head,
        _field(_METHOD, scope["method"].encode("ascii")),
        _field(_PATH, scope["path"].encode("utf-8", "surrogateescape")),
        _field(_RAW_PATH, scope["raw_path"]),
        _field(_QUERY, scope["query_string"]),
        _field(_VERSION, scope["http_version"].encode("ascii")),
    ]
    for value in headers.flat:
        size = len(value)
        parts += (_HEADER, short[size] if size < 1024 else varint(size), value)
    parts += (_REQUEST_ID_HEADER, _field(_HEADER, request_id))
    if headers.host:
        parts += (_FORWARDED_HOST_HEADER, _field(_HEADER, headers.host))
    out = for_open + _field(_REQUEST_ID, request_id) + http_of_open(b"".join(parts))
    if headers.multiplexed_model_id:
        out += _field(_MODEL, headers.multiplexed_model_id.encode())
    if headers.session_id:
        out += _field(_SESSION, headers.session_id.encode())
    return out
