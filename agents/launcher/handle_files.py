"""The handle files of a node: one JSON text per process, written before the process runs a line of our code.

A file is reserved (O_EXCL, pid 0) before the fork: two launchers, or one asked twice, can never start the same
incarnation. Writes are atomic but not synced: a handle means nothing after a power cut, its boot id is another.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from urllib.parse import quote

from serve_rt.agents.launcher.records import Handle
from serve_rt.errors import ConfigError, ConflictError
from serve_rt.wire.records import decode, encode

log = logging.getLogger(__name__)


class HandleFiles:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def reserve(self, handle: Handle) -> None:
        """*Errors*: ConflictError when this incarnation was reserved before."""
        path = self._path(handle.name, handle.incarnation)
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError as error:
            raise ConflictError(f"{handle.name}.{handle.incarnation} was started before: see {path}") from error
        with os.fdopen(fd, "wb") as file:
            file.write(encode(handle))

    def write(self, handle: Handle) -> None:
        path = self._path(handle.name, handle.incarnation)
        staged = path.with_suffix(".tmp")
        fd = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(encode(handle))
        os.replace(staged, path)

    def remove(self, name: str, incarnation: int) -> None:
        self._path(name, incarnation).unlink(missing_ok=True)

    def load(self) -> list[Handle]:
        """All readable handles; a damaged file is reported and left alone, for it may name a living process."""
        found = []
        for path in sorted(self._folder.glob("*.json")):
            try:
                found.append(decode(path.read_bytes(), Handle, source=str(path)))
            except (ConfigError, OSError) as error:
                log.error("handle file skipped: %s", error, extra={"action": "handle_damaged"})
        return found

    def _path(self, name: str, incarnation: int) -> Path:
        return self._folder / f"{quote(name, safe='#')}.{incarnation}.json"
