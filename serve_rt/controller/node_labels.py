"""Does a node's label fit a selector? Ray's words: `value`, `!value`, `in(a,b)`, `!in(a,b)`. Pure."""

from __future__ import annotations

import re

_SET = re.compile(r"(!?)in\(([^()]*)\)")


def fits(selector: str, value: str | None) -> bool:
    """`value`: what the node says, None when it has no such label (which `!` accepts)."""
    chosen = _SET.fullmatch(selector)
    if chosen is not None:
        among = value is not None and value in [one.strip() for one in chosen[2].split(",")]
        return among is not bool(chosen[1])
    if selector.startswith("!"):
        return value != selector[1:]
    return value == selector


def lacking(label: str, selector: str, value: str | None) -> str:
    if not _SET.fullmatch(selector) and not selector.startswith("!"):
        return f"has no label {label}={selector}"
    return f"has {label}={value}, not {selector}" if value is not None else f"has no label {label} in {selector}"
