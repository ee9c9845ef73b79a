"""Where a coroutine waits."""

from __future__ import annotations

from collections.abc import Iterator
from types import FrameType


def awaiting(waits: object) -> Iterator[FrameType]:
    """The frames from a coroutine or generator down to the one that waits; `Task.get_stack` knows only the first."""
    while waits is not None:
        frame = next((f for name in ("cr_frame", "gi_frame", "ag_frame") if (f := getattr(waits, name, None))), None)
        if frame is None:
            return
        yield frame
        waits = next(
            (w for name in ("cr_await", "gi_yieldfrom", "ag_await") if (w := getattr(waits, name, None))), None
        )
