"""One way to move a state machine: through its table, or not at all."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import TypeVar

from serve_rt.errors import InvalidTransition

S = TypeVar("S", bound=enum.Enum)

Transitions = Mapping[S, frozenset[S]]


def move(table: Transitions[S], old: S, new: S, subject: str, history: tuple[str, ...] = ()) -> S:
    """Return `new` if the table allows the move (staying is always allowed).

    *Errors*: InvalidTransition, with the subject's history.
    """
    if new is not old and new not in table[old]:
        raise InvalidTransition(subject, old, new, history)
    return new


def mermaid(table: Transitions[S]) -> str:
    """The table as a picture for a README."""
    lines = ["stateDiagram-v2"]
    lines += [f"    {old.name} --> {new.name}" for old in table for new in sorted(table[old], key=lambda s: s.name)]
    return "\n".join(lines)
