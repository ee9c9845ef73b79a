"""What this node has learned about constructors: modules to preload, and modules that must not be.

Lives in `learned.json` of the state dir; the next launcher begins with it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from serve_rt.config.paths import write_atomically
from serve_rt.errors import ConfigError
from serve_rt.wire.records import decode, encode

log = logging.getLogger(__name__)
MAX_MODULES = 20_000


@dataclass(frozen=True, slots=True)
class Learned:
    modules: tuple[str, ...] = ()
    """In the order in which constructors imported them: a package comes before what it needs later."""
    bad: tuple[str, ...] = ()
    schema: int = 1

    def plus(self, modules: tuple[str, ...]) -> Learned:
        """With `modules` added; the same value when nothing is new."""
        known = {*self.modules, *self.bad}
        new = tuple(name for name in dict.fromkeys(modules) if name not in known)
        return replace(self, modules=(*self.modules, *new)[:MAX_MODULES]) if new else self

    def without(self, bad: str) -> Learned:
        """With `bad`, and everything inside it if it is a package, never to be preloaded again."""
        kept = tuple(name for name in self.modules if name != bad and not name.startswith(f"{bad}."))
        return replace(self, modules=kept, bad=(*self.bad, bad))


def load(path: Path) -> Learned:
    try:
        return decode(path.read_bytes(), Learned, source=str(path))
    except FileNotFoundError:
        return Learned()
    except (ConfigError, OSError) as error:
        log.warning("starting to learn anew: %s", error, extra={"action": "learned_damaged"})
        return Learned()


def save(path: Path, learned: Learned) -> None:
    write_atomically(path, encode(learned))
