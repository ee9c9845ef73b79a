"""Everything a proxy bounds of what clients send and take, in one table.

Each row is set for a node's proxies by `serve-agent --http-limit NAME=VALUE`, or by `http_options={"limits": {…}}`
where a program starts its cluster. `parse_limits` reads the former; `checked` is what both go through.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from serve_rt.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Limits:
    url_bytes: int = 16 << 10
    """414 above."""
    header_bytes: int = 64 << 10
    """Names and values of one request together, the request line with them: 431 above."""
    header_count: int = 128
    body_bytes: int = 0
    """Of every application here; 0: each application's own `max_body_bytes`, 1 GiB. 413 above."""
    websocket_message_bytes: int = 16 << 20
    """Close code 1009 above."""
    websocket_fragments: int = 1024
    """Of one message: 1009 above."""
    connections: int = 16_384
    """Per worker; one more is answered 503 and closed."""
    head_timeout_s: float = 10.0
    """From the connection, or the first byte of a request, to the end of its headers: 408 then."""
    body_grace_s: float = 10.0
    """So long a client may take for `body_grace_s * body_bytes_per_s` more bytes of a body: 408 then."""
    body_bytes_per_s: int = 1024
    keep_alive_timeout_s: float = 90.0
    """Of a connection between two requests. `--http-keep-alive-timeout-s` sets the same."""
    write_timeout_s: float = 60.0
    """A client that leaves so long unread what waits for it is cut off."""
    unsent_bytes: int = 256 << 10
    """Of one connection, what the kernel may hold for a client that has no room; then the answer's generator waits."""
    drain_s: float = 30.0
    """How long a lame duck leaves idle connections open."""
    drain_busy_s: float = 600.0
    """How long it waits for requests that run, and WebSockets."""


_MAY_BE_ZERO = frozenset({"body_bytes", "drain_s", "drain_busy_s"})
_ROWS = {row.name: row for row in dataclasses.fields(Limits)}


def checked(given: Mapping[str, object]) -> dict[str, float]:
    """*Errors*: ConfigError naming the row that does not exist, or whose value cannot be."""
    values: dict[str, float] = {}
    for name, value in given.items():
        row = _ROWS.get(name)
        if row is None:
            import difflib  # for a mistake only: agents start often

            nearest = difflib.get_close_matches(name, _ROWS, 1)
            meant = f": did you mean {nearest[0]!r}?" if nearest else f"; there are {', '.join(_ROWS)}"
            raise ConfigError(f"there is no HTTP limit {name!r}{meant}")
        whole = isinstance(row.default, int)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ConfigError(f"HTTP limit {name}: {value!r} is not a number")
        if whole and value != int(value):
            raise ConfigError(f"HTTP limit {name}: {value!r} is not a whole number")
        if value < 0 or (value == 0 and name not in _MAY_BE_ZERO):
            raise ConfigError(f"HTTP limit {name}: {value!r} must be more than 0")
        values[name] = int(value) if whole else float(value)
    return values


def parse_limits(texts: Iterable[str]) -> dict[str, float]:
    """`url_bytes=8192`, given any number of times.

    >>> parse_limits(["url_bytes=8192", "head_timeout_s=2.5"])
    {'url_bytes': 8192, 'head_timeout_s': 2.5}
    """
    given: dict[str, object] = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            given[name.strip()] = float(value)
        except ValueError as error:
            raise ConfigError(f"--http-limit {text!r} is not of the form name=number") from error
    return checked(given)
