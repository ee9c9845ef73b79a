"""Everything a proxy bounds of what clients send, in one table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    url_bytes: int = 16 << 10
    """414 above."""
    header_bytes: int = 64 << 10
    """Names and values of one request together, the request line with them: 431 above."""
    header_count: int = 128
    connections: int = 16_384
    """Per worker; one more is answered 503 and closed."""
    head_timeout_s: float = 10.0
    """From the connection, or the first byte of a request, to the end of its headers."""
    body_pause_s: float = 30.0
    """Between two pieces of a request's body: 408 above."""
    websocket_message_bytes: int = 16 << 20
    drain_s: float = 30.0
    """How long a lame duck leaves idle connections open."""
    drain_busy_s: float = 600.0
    """How long it waits for requests that run."""
