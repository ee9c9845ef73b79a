"""Which etcd we talk to, and what is wrong with it.

Asked twice: of the binary before it is spawned (embedded.py), and of the server that answers (an agent judges
`EtcdStatus.version` when it starts).
"""

from __future__ import annotations

import re

from serve_rt.errors import EtcdTooOldError

OLDEST = (3, 4, 0)
SAFE_EMBEDDED = (3, 5, 5)
"""From here on an etcd on PATH is preferred to the one that pip installed."""

Version = tuple[int, int, int]


def parse_version(text: str) -> Version:
    """The first a.b.c in the text, (0, 0, 0) when there is none."""
    match = re.search(r"(\d+)\.(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2]), int(match[3])) if match else (0, 0, 0)


def judge_version(text: str) -> str:
    """A warning for people, empty when there is nothing to say. *Errors*: EtcdTooOldError."""
    version = parse_version(text)
    if version < OLDEST:
        raise EtcdTooOldError(f"etcd {text.strip()} is older than 3.4, the oldest supported; use 3.5.5 or newer")
    if version < (3, 4, 25):
        return f"etcd {text.strip()} misses fixes of lost and late watch events: use 3.4.25, 3.5.8 or newer"
    if (3, 5, 0) <= version < SAFE_EMBEDDED:
        return (
            f"etcd {text.strip()} can lose acknowledged writes when it or its machine crashes (3.5.0-3.5.4): good for "
            "development only; for production use an external cluster of 3.5.5 or newer (--etcd)"
        )
    return ""
