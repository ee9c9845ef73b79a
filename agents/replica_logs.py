"""Replica logs of this node for `serve logs`: the last lines, then what is added, over rotations.

Called by `api_server`; which files belong to an application is their place: `<state>/logs/<app>/<replica>.log`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

from serve_rt.config.paths import StateDir

POLL_S = 0.2
CHUNK_BYTES = 64 << 10
_TAIL_BYTES = 4 << 20


def log_files(state: StateDir, app: str, replica: str) -> list[Path]:
    """Files of an application (all when it is ""), by the beginning of the replica id's last part."""
    folders = [state.logs / app] if app else sorted(p for p in state.logs.iterdir() if p.is_dir())
    if app and folders[0].parent != state.logs:  # an app name is user input: it must not lead elsewhere
        return []
    found = (path for folder in folders if folder.is_dir() for path in sorted(folder.glob("*.log")))
    return [path for path in found if path.stem.rpartition("_")[2].startswith(replica)]


def tail(path: Path, lines: int) -> tuple[bytes, int]:
    """The last `lines` lines (all when 0) and the offset behind them."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL_BYTES))
        data = file.read()
    if lines:
        data = b"".join(data.splitlines(keepends=True)[-lines:])
    return data, size


class Follower:
    """Reads what is added to the files of an application, new files included."""

    def __init__(self, state: StateDir, app: str, replica: str, tail_lines: int) -> None:
        self._state, self._app, self._replica, self._tail = state, app, replica, tail_lines
        self._offsets: dict[Path, tuple[int, int]] = {}
        """Path -> inode and offset: another inode is a rotated file, read from its start."""

    async def chunks(self, *, follow: bool) -> AsyncIterator[tuple[str, bytes]]:
        for path in log_files(self._state, self._app, self._replica):
            data, offset = tail(path, self._tail)
            self._offsets[path] = (path.stat().st_ino, offset)
            for start in range(0, len(data), CHUNK_BYTES):
                yield path.stem, data[start : start + CHUNK_BYTES]
        while follow:
            await asyncio.sleep(POLL_S)
            for path in log_files(self._state, self._app, self._replica):
                while data := self._added(path):
                    yield path.stem, data

    def _added(self, path: Path) -> bytes:
        try:
            with open(path, "rb") as file:
                inode = os.fstat(file.fileno()).st_ino
                known, offset = self._offsets.get(path, (inode, 0))
                offset = offset if known == inode and offset <= os.fstat(file.fileno()).st_size else 0
                file.seek(offset)
                data = file.read(CHUNK_BYTES)
        except FileNotFoundError:
            return b""
        self._offsets[path] = (inode, offset + len(data))
        return data
