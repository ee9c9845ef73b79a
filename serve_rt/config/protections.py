"""Switches that turn a protection off, for negative controls only.

A promise is proven by a test that passes with the protection and fails without it: `SERVE_TEST_DISABLE=adopt,fence`
names the protections that a process started with it does not have. Production never sets it; the agent warns when set.
"""

from __future__ import annotations

import enum
import os
from functools import cache

VARIABLE = "SERVE_TEST_DISABLE"


class Protection(enum.Enum):
    ADOPT = "adopt"
    """A restarted agent takes over the replicas it finds."""
    FENCE = "fence"
    """Controller writes compare the leader key; agents refuse lower epochs."""
    SETTLE = "settle"
    """After a write of unknown fate a leader rules out that it is applied later, before it decides anew."""
    RETRY_RULE = "retry-rule"
    """A request that may have started is run again only if it is safe to run twice; unknown counts as started."""
    OWN_DIR = "own-dir"
    """A copy of a state dir whose processes live is not started on."""
    LEARN = "learn"
    """Launchers preload what constructors imported."""
    LOCAL_RESTART = "local-restart"
    """An agent restarts a crashed replica without asking the leader."""
    BUSY_CHECK = "busy-check"
    """A replica that burns CPU or blocks its user loop is left alone."""
    RESEED = "reseed"
    """Random generators are reseeded after the fork."""
    PUSH = "push"
    """The leader pushes assignments over gRPC; without it the watch alone must do."""
    LOCAL_EJECT = "local-eject"
    """A router drops a replica whose stream broke before it is told so."""
    LAME_DUCK = "lame-duck"
    """A proxy worker that is replaced answers what its connections still ask."""
    OUTLIER_EJECT = "outlier-eject"
    """A replica whose answers are failures, as its deployment declares them, leaves the rotation for a while."""
    PANIC = "panic"
    """With more than half of the replicas out of rotation, those that can be reached are used."""
    SHED_LATE = "shed-late"
    """A request that the queue cannot serve before its deadline is refused at once."""
    SURGE = "surge"
    """A new version is ready before an old replica is touched."""

    HANDOVER = "handover"
    """The routes of an application move to another ingress only when that is ready; the old one stays until then."""


@cache
def _disabled() -> frozenset[str]:
    return frozenset(name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip())


def enabled(protection: Protection) -> bool:
    return protection.value not in _disabled()
