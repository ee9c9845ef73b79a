"""`serve run --reload`: when a file below the import folder changes, the program is imported anew and deployed again.

Looks at times and sizes every half second: no daemon, no dependency. What the new code raises is shown and the former
version goes on answering. Called by serve_rt.cli.run.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from serve_rt.config.paths import StateDir

LOOK_EVERY_S = 0.5
MOST_FILES = 20_000
SUFFIXES = (".py", ".yaml", ".yml", ".json", ".toml")
_SKIPPED = frozenset({"__pycache__", "node_modules", "site-packages"})


class Watched:
    """The files of one folder as they were when last looked at."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen = _look(folder)

    def changed(self) -> list[str]:
        """Names of what is new, gone or other than at the last look."""
        now = _look(self._folder)
        names = sorted(name for name in {*now, *self._seen} if now.get(name) != self._seen.get(name))
        self._seen = now
        return names


def _look(folder: Path) -> Mapping[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    for entry in _files(str(folder)):
        if len(found) == MOST_FILES:
            break
        try:
            stat = entry.stat()
        except OSError:  # it went while we looked
            continue
        found[os.path.relpath(entry.path, folder)] = (stat.st_mtime_ns, stat.st_size)
    return found


def _files(folder: str) -> Iterator[os.DirEntry[str]]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    if any(entry.name == "pyvenv.cfg" for entry in entries) or StateDir.is_one(Path(folder)):
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            if not entry.name.startswith(".") and entry.name not in _SKIPPED:
                yield from _files(entry.path)
        elif entry.name.endswith(SUFFIXES):
            yield entry


def forget_modules(folder: Path) -> None:
    """Let the next import read the files below `folder` again."""
    inside = str(folder.resolve()) + os.sep
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) or ""
        if name != "__main__" and file.startswith(inside) and os.sep + "site-packages" + os.sep not in file:
            del sys.modules[name]
            cached = getattr(module, "__cached__", None)
            if cached:  # valid by whole seconds and size: two changes in one second may look alike
                Path(cached).unlink(missing_ok=True)
    importlib.invalidate_caches()
