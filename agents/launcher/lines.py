"""The launcher's protocol: one JSON object per line over a Unix socket.

    {"id": 7, "op": "spawn", …}  →  {"id": 7, "result": …}  or  {"id": 7, "error": {"kind": …, "message": …}}
    {"exit": {…}}                   from the launcher, unasked

`Inbox` cuts lines out of whatever arrives; the launcher refuses a line longer than MAX_LINE_BYTES.
"""

from __future__ import annotations

import json
from typing import Any

from serve_rt import errors

MAX_LINE_BYTES = 1 << 20
MAX_UNREAD_BYTES = 64 << 20
"""A client that does not read more than this is cut off; also the longest answer (the handles of thousands)."""


class LineTooLong(errors.ServeException):
    """The peer sends something that is not this protocol."""


class Inbox:
    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The whole lines that are there now. *Errors*: LineTooLong."""
        self._buffer += data
        if b"\n" not in data:
            self._refuse_long(len(self._buffer))
            return []
        *lines, rest = bytes(self._buffer).split(b"\n")
        self._buffer[:] = rest
        for line in (*lines, rest):
            self._refuse_long(len(line))
        return lines

    @staticmethod
    def _refuse_long(size: int) -> None:
        if size > MAX_LINE_BYTES:
            raise LineTooLong(f"a line of more than {MAX_LINE_BYTES} bytes: not the launcher's protocol")


def line(message: dict[str, Any]) -> bytes:  # Any: JSON
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def error_record(error: errors.ServeException) -> dict[str, str]:
    return {"kind": type(error).__name__, "message": str(error)}


def error_from(record: dict[str, Any]) -> errors.ServeException:
    kind = getattr(errors, str(record.get("kind")), errors.ServeException)
    message = str(record.get("message"))
    if kind in (errors.ConflictError, errors.NotFoundError, errors.ConfigError, errors.UnavailableError):
        made: errors.ServeException = kind(message)
        return made
    return errors.ServeException(message)
