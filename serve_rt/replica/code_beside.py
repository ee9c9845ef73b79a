"""What the code's zip has not, found where it came from: weights, data, files that git ignores.

A program opens `model.pt` beside its code, or `Path(__file__).parent / "data"`. The zip has what git would know and no
more than its limit, so on the machine that it was made on the unpacked folder gets links to the rest. On other machines
there is no such folder, and such files must be put there. Done by each replica before user code; the first one finds
work, links that are there already are left.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from serve_rt.config.paths import NOT_CODE

MOST_LINKS = 10_000


def link_beside(code_dir: str, origin: str) -> int:
    """How many links were made now."""
    made = 0
    if not origin or not os.path.isdir(origin) or os.path.realpath(origin) == os.path.realpath(code_dir):
        return 0
    for source, target in _missing(origin, code_dir):
        if made == MOST_LINKS:
            break
        try:
            os.symlink(source, target)
            made += 1
        except OSError:  # another replica was first, or the disk is full: user code will say what it misses
            continue
    return made


def _missing(origin: str, code_dir: str) -> Iterator[tuple[str, str]]:
    """Of each folder that the zip has, what is in the original and not in it."""
    try:
        entries = sorted(os.scandir(origin), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        target = os.path.join(code_dir, entry.name)
        if entry.name in NOT_CODE or entry.name.endswith(".pyc"):
            continue
        if not os.path.lexists(target):
            yield entry.path, target
        elif entry.is_dir() and os.path.isdir(target) and not os.path.islink(target):
            yield from _missing(entry.path, target)
