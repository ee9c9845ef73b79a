"""The list of modules that constructors imported, on disk: `{"modules": [...], "bad": [...]}`.

`bad` are those whose import spoils a fork parent (threads, a GPU) or does not work outside of a constructor.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from serve_rt.config.paths import write_atomically
from serve_rt.errors import ServeException
from serve_rt.wire.records import decode, encode

log = logging.getLogger(__name__)
MAX_MODULES = 20_000


@dataclass(slots=True)
class _Record:
    modules: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    schema: int = 1


class Learned:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._record = _Record()
        try:
            self._record = decode(path.read_bytes(), _Record, source=str(path))
        except FileNotFoundError:
            pass
        except (OSError, ServeException) as error:  # only speed is lost
            log.warning("forgetting what was learned: %s", error, extra={"action": "learned_damaged"})

    @property
    def modules(self) -> tuple[str, ...]:
        return tuple(self._record.modules)

    @property
    def bad(self) -> tuple[str, ...]:
        return tuple(self._record.bad)

    def add(self, modules: Iterable[str]) -> bool:
        """Whether there was anything new."""
        known = {*self._record.modules, *self._record.bad}
        new = [name for name in dict.fromkeys(modules) if name not in known][: MAX_MODULES - len(known)]
        self._record.modules += new
        if new:
            self._save()
        return bool(new)

    def mark_bad(self, modules: Iterable[str]) -> None:
        bad = set(modules)
        self._record.bad += sorted(bad - set(self._record.bad))
        self._record.modules = [name for name in self._record.modules if name not in bad]
        self._save()

    def _save(self) -> None:
        try:
            write_atomically(self._path, encode(self._record))
        except OSError as error:
            log.warning("cannot write %s: %s", self._path, error.strerror, extra={"action": "learned_not_written"})
