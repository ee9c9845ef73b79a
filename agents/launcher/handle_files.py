"""Handle files: one JSON record per process, the only memory that survives the launcher.

Life of a file: `reserve` (O_EXCL, no pid) → the process is forked and waits → `write` (pid) → the process may run →
`write` (exited) → `remove`. A process whose pid is not in its file has not run one line of its entry.
They outlive processes, not power cuts: another boot id makes them void, so nothing is fsynced.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from serve_rt.agents.launcher.records import Handle
from serve_rt.errors import ConflictError, ServeException
from serve_rt.wire.records import decode, encode

log = logging.getLogger(__name__)


class HandleFiles:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, name: str, incarnation: int) -> Path:
        return self._folder / f"{quote(name, safe='#@+=')}.{incarnation}.json"

    def reserve(self, handle: Handle) -> Path:
        """*Errors*: ConflictError when it exists; ServeException when the disk refuses."""
        path = self.path(handle.name, handle.incarnation)
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(encode(handle))
        except FileExistsError as error:
            raise ConflictError(f"incarnation {handle.incarnation} of {handle.name} is reserved already") from error
        except OSError as error:
            path.unlink(missing_ok=True)
            raise ServeException(f"cannot write the handle file {path}: {error.strerror}") from error
        return path

    def write(self, handle: Handle) -> None:
        """Replace what is there, whole. *Errors*: OSError."""
        path = self.path(handle.name, handle.incarnation)
        staged = path.with_suffix(f".{os.getpid()}.tmp")
        fd = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(encode(handle))
        os.replace(staged, path)

    def remove(self, name: str, incarnation: int) -> None:
        self.path(name, incarnation).unlink(missing_ok=True)

    def read(self, name: str, incarnation: int) -> Handle | None:
        path = self.path(name, incarnation)
        try:
            return decode(path.read_bytes(), Handle, source=f"handle file {path.name}")
        except (OSError, ServeException):
            return None

    def all(self) -> Iterator[Handle]:
        """Damaged ones are named in the log and put aside."""
        for path in sorted(self._folder.glob("*.json")):
            try:
                yield decode(path.read_bytes(), Handle, source=f"handle file {path.name}")
            except (OSError, ServeException) as error:
                log.error("not understood: %s", error, extra={"action": "handle_damaged"})
                path.rename(path.with_suffix(".damaged"))

    def clear(self) -> None:
        for path in list(self._folder.glob("*")):
            path.unlink(missing_ok=True)
