"""Is a replica in rotation, when it answers but its answers are failures? Pure: values in, values out.

After Envoy's outlier detection: so many declared statuses (5xx, named by the deployment) in a row take a replica out,
for a base time that grows with each time it happens; then it is on trial, where one failure is enough. What nobody
declared never counts, so without a `FailureRule` nobody is ejected here. Never more than a share of the replicas are
out, and one always stays: a failure that all have in common is no reason to serve nothing. Called by
serve_rt.routing.rotation.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

from serve_rt.model.routes import FailureRule
from serve_rt.model.transitions import Transitions, move

LONGEST_EJECTION_S = 300.0


class Standing(enum.Enum):
    IN = "in"
    OUT = "out"
    """Chosen only in a panic: when more than half of the replicas cannot be used otherwise."""
    TRIAL = "on trial"
    """Chosen again; the next answer decides."""


STANDING_TRANSITIONS: Transitions[Standing] = {
    Standing.IN: frozenset({Standing.OUT}),
    Standing.OUT: frozenset({Standing.TRIAL}),
    Standing.TRIAL: frozenset({Standing.IN, Standing.OUT}),
}


@dataclass(frozen=True, slots=True)
class Record:
    """What is remembered of one replica."""

    standing: Standing = Standing.IN
    in_a_row: int = 0
    times: int = 0
    """Ejections, less one for each base time spent well since."""
    since_s: float = 0.0
    """When it got this standing."""
    until_s: float = 0.0
    """End of the ejection."""


def answered(record: Record, failed: bool, rule: FailureRule, now: float, may_eject: bool) -> Record:
    """After one answer. One that is out is answered for too: by what it had been sent before."""
    if record.standing is Standing.OUT:
        return record
    if not failed:
        if record.standing is Standing.TRIAL:
            return replace(_moved(record, Standing.IN, now), in_a_row=0)
        return replace(record, in_a_row=0) if record.in_a_row else record
    record = replace(record, in_a_row=record.in_a_row + 1)
    enough = record.standing is Standing.TRIAL or record.in_a_row >= rule.consecutive
    return _ejected(record, rule, now) if enough and may_eject else record


def at(record: Record, now: float) -> Record:
    """Time has passed."""
    if record.standing is Standing.OUT and now >= record.until_s:
        return replace(_moved(record, Standing.TRIAL, now), in_a_row=0)
    return record


def _ejected(record: Record, rule: FailureRule, now: float) -> Record:
    forgiven = int((now - record.since_s) / rule.base_ejection_s) if record.standing is Standing.IN else 0
    times = max(0, record.times - forgiven) + 1
    out_s = min(rule.base_ejection_s * times, max(LONGEST_EJECTION_S, rule.base_ejection_s))
    return replace(_moved(record, Standing.OUT, now), times=times, until_s=now + out_s)


def _moved(record: Record, new: Standing, now: float) -> Record:
    return replace(record, standing=move(STANDING_TRANSITIONS, record.standing, new, "replica"), since_s=now)


def may_eject_one(replicas: int, out: int, max_percent: int) -> bool:
    """Whether one more may leave the rotation; `out` are gone already, for whatever reason.

    >>> [may_eject_one(replicas, 0, 50) for replicas in (1, 2, 3, 4)], may_eject_one(4, 2, 50), may_eject_one(2, 0, 100)
    ([False, True, True, True], False, True)
    >>> may_eject_one(2, 1, 100)
    False
    """
    return out + 1 < replicas and (out + 1) * 100 <= replicas * max_percent


def panics(replicas: int, out: int) -> bool:
    """More than half cannot be used: whoever can be reached is as good as the rest.

    >>> panics(2, 1), panics(3, 2)
    (False, True)
    """
    return out * 2 > replicas
