"""JSON lines between the launcher and those who command it: one request, one reply with its number, events between.

Every message is one class below; `op` tells requests apart. Read by `server` and `client`, and between the front
process and its nurseries.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from serve_rt import errors
from serve_rt.agents.launcher.records import Exit, Handle, LauncherStatus, ProcessKind, SpawnSpec

MAX_LINE_BYTES = 8 << 20


class Spawn(msgspec.Struct, tag_field="op", tag="spawn", frozen=True):
    spec: SpawnSpec


class ListHandles(msgspec.Struct, tag_field="op", tag="handles", frozen=True):
    pass


class Signal(msgspec.Struct, tag_field="op", tag="signal", frozen=True):
    name: str
    incarnation: int
    signum: int


class KillGroup(msgspec.Struct, tag_field="op", tag="kill_group", frozen=True):
    name: str
    incarnation: int


class Forget(msgspec.Struct, tag_field="op", tag="forget", frozen=True):
    name: str
    incarnation: int


class BindHttp(msgspec.Struct, tag_field="op", tag="bind_http", frozen=True):
    host: str
    port: int
    slots: int


class Preload(msgspec.Struct, tag_field="op", tag="preload", frozen=True):
    modules: tuple[str, ...]


class Status(msgspec.Struct, tag_field="op", tag="status", frozen=True):
    pass


class Shutdown(msgspec.Struct, tag_field="op", tag="shutdown", frozen=True):
    pass


Command = Spawn | ListHandles | Signal | KillGroup | Forget | BindHttp | Preload | Status | Shutdown


class Request(msgspec.Struct, frozen=True):
    id: int
    command: Command


class Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer to request `id`; `error` is the name of a class in serve_rt.errors. With id 0: an event."""

    id: int
    error: str = ""
    message: str = ""
    handle: Handle | None = None
    handles: tuple[Handle, ...] = ()
    status: LauncherStatus | None = None
    number: int = 0
    exit: Exit | None = None


# --- between the front process and a nursery ---------------------------------------------------------------------


class Import(msgspec.Struct, tag_field="op", tag="import", frozen=True):
    modules: tuple[str, ...]


class Fork(msgspec.Struct, tag_field="op", tag="fork", frozen=True):
    spec: SpawnSpec


class Go(msgspec.Struct, tag_field="op", tag="go", frozen=True):
    """The handle file is written: the forked child may begin."""

    pid: int


class Retire(msgspec.Struct, tag_field="op", tag="retire", frozen=True):
    """End with the last child."""


class Imported(msgspec.Struct, tag_field="op", tag="imported", frozen=True):
    modules: int
    bad: str = ""
    """The module after whose import the nursery could not fork safely any more; it ends after saying so."""
    reason: str = ""


class Forked(msgspec.Struct, tag_field="op", tag="forked", frozen=True):
    pid: int


class Reaped(msgspec.Struct, tag_field="op", tag="reaped", frozen=True):
    pid: int
    status: int
    """As os.waitpid gives it."""


ToNursery = Import | Fork | Go | Retire
FromNursery = Imported | Forked | Reaped

_encoder = msgspec.json.Encoder()
request_decoder = msgspec.json.Decoder(Request)
reply_decoder = msgspec.json.Decoder(Reply)
to_nursery_decoder = msgspec.json.Decoder(ToNursery)
from_nursery_decoder = msgspec.json.Decoder(FromNursery)


def line(message: Any) -> bytes:
    return _encoder.encode(message) + b"\n"


class LineBuffer:
    """Bytes in, whole lines out. *Errors*: ConfigError when a line grows past MAX_LINE_BYTES."""

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        *lines, self._pending = (self._pending + data).split(b"\n")
        if len(self._pending) > MAX_LINE_BYTES:
            raise errors.ConfigError(f"a line of the launcher protocol is longer than {MAX_LINE_BYTES} bytes")
        yield from (text for text in lines if text)


def error_of(reply: Reply) -> errors.ServeException:
    kind = getattr(errors, reply.error, errors.ServeException)
    made: errors.ServeException = kind(reply.message)
    return made


__all__ = [
    "BindHttp",
    "Command",
    "Exit",
    "Forget",
    "Fork",
    "Forked",
    "FromNursery",
    "Go",
    "Import",
    "Imported",
    "KillGroup",
    "LineBuffer",
    "ListHandles",
    "Preload",
    "ProcessKind",
    "Reaped",
    "Reply",
    "Request",
    "Retire",
    "Shutdown",
    "Signal",
    "Spawn",
    "Status",
    "ToNursery",
    "error_of",
    "from_nursery_decoder",
    "line",
    "reply_decoder",
    "request_decoder",
    "to_nursery_decoder",
]
