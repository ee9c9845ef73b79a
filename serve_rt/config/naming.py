"""Names that nobody knows are refused with the nearest known one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from serve_rt.errors import ConfigError


class UnknownOptionError(ConfigError, TypeError):
    """An option nobody knows; the message names the nearest known one."""


def refuse_unknown(what: str, given: Iterable[str], known: Iterable[str]) -> None:
    """*Errors*: UnknownOptionError for the first name in `given` that is not in `known`."""
    known = list(known)
    for name in given:
        if name not in known:
            raise UnknownOptionError(f"{what} has no option {name!r}. {nearest(name, known)}")


def nearest(name: object, known: Iterable[str]) -> str:
    """The sentence that helps: the nearest known name, or all of them."""
    known = list(known)
    near = difflib.get_close_matches(str(name), known, 1)
    return f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(sorted(known))}."
