"""Headers on their way through: hop-by-hop ones stay here, both ways; ours are added.

A request's headers are read once. What only the proxy may say (X-Forwarded-*) is dropped when it comes from outside.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from serve_rt.errors import ConfigError

_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_FORWARDED = frozenset(
    {b"forwarded", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port"}
)
_OURS = frozenset(
    {
        b"host",
        b"content-length",
        b"x-request-id",
        b"x-request-timeout-seconds",
        b"idempotency-key",
        b"serve_multiplexed_model_id",
        b"serve-multiplexed-model-id",
        b"x-session-id",
        b"sec-websocket-key",
        b"sec-websocket-version",
        b"sec-websocket-extensions",
    }
)
_LOOKED_AT = _HOP | _FORWARDED | _OURS
_WEBSOCKET_HANDSHAKE = frozenset({b"sec-websocket-key", b"sec-websocket-version", b"sec-websocket-extensions"})
MAX_REQUEST_ID_CHARS = 200


@dataclass(slots=True)
class RequestHeaders:
    flat: list[bytes] = field(default_factory=list)
    """name, value, name, value, … as they go on to the replica."""
    host: bytes = b""
    content_length: int = 0
    has_body: bool = False
    request_id: str = ""
    timeout_s: float | None = None
    idempotent: bool = False
    multiplexed_model_id: str = ""
    session_id: str = ""


def read_headers(headers: Iterable[tuple[bytes, bytes]]) -> RequestHeaders:
    """*Errors*: ConfigError for a value that makes no sense (400)."""
    seen = RequestHeaders()
    flat = seen.flat
    named: list[bytes] = []
    for name, value in headers:
        if name in _LOOKED_AT and not _look_at(seen, named, name, value):
            continue
        flat += (name, value)
    if named:
        _drop(flat, named)
    return seen


def _look_at(seen: RequestHeaders, named: list[bytes], name: bytes, value: bytes) -> bool:
    """Note what a header means to us; whether it goes on to the replica."""
    if name == b"host":
        seen.host = value
    elif name == b"content-length":
        seen.content_length = int(value)  # the parser has checked that it is a number
        seen.has_body = seen.content_length > 0
    elif name == b"transfer-encoding":
        seen.has_body = True
        return False
    elif name == b"connection":
        if value not in (b"keep-alive", b"close"):
            named += [token.strip().lower() for token in value.split(b",")]
        return False
    elif name == b"x-request-id":
        seen.request_id = request_id_of(value)
        return False  # goes on as the Open's request id, and as the header that forward.py adds
    elif name == b"x-request-timeout-seconds":
        seen.timeout_s = _timeout_s(value)
    elif name == b"idempotency-key":
        seen.idempotent = True
    elif name in (b"serve_multiplexed_model_id", b"serve-multiplexed-model-id"):
        seen.multiplexed_model_id = value.decode("latin-1")
    elif name == b"x-session-id":
        seen.session_id = value.decode("latin-1")
    return name not in _HOP and name not in _FORWARDED and name not in _WEBSOCKET_HANDSHAKE


def _drop(flat: list[bytes], named: list[bytes]) -> None:
    """Headers that `Connection` names are of this hop too. Host and framing cannot be dropped that way."""
    gone = frozenset(named) - {b"host", b"content-length"}
    kept = [part for i in range(0, len(flat), 2) if flat[i] not in gone for part in (flat[i], flat[i + 1])]
    flat[:] = kept


def request_id_of(value: bytes) -> str:
    text = value.decode("latin-1")[:MAX_REQUEST_ID_CHARS]
    return text if text.isprintable() else ""


def _timeout_s(value: bytes) -> float | None:
    try:
        timeout_s = float(value)
    except ValueError:
        timeout_s = math.nan
    if math.isnan(timeout_s) or math.isinf(timeout_s):
        raise ConfigError(f"x-request-timeout-seconds: {value.decode('latin-1')!r} is not a number of seconds")
    return timeout_s if timeout_s > 0 else None  # Ray's way to say "none"


def response_headers(flat: Sequence[bytes], request_id: bytes) -> list[tuple[bytes, bytes]]:
    """A replica's headers as the client gets them."""
    out: list[tuple[bytes, bytes]] = []
    for index in range(0, len(flat) - 1, 2):
        name = flat[index].lower()
        if name not in _HOP and name != b"x-request-id":
            out.append((name, flat[index + 1]))
    out.append((b"x-request-id", request_id))
    return out
