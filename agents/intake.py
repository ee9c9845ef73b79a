"""May this reading of `/assign/<node>` be acted on? A pure answer, for both roads it comes by: watch and push.

The leader writes an assignment (fenced) before it pushes it, so both roads carry the same thing; applying twice is a
no-op. A lower epoch comes from a leader that has lost; a lower revision is old news; another incarnation of the store
is another history, believed only from our own mirror.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

from serve_rt.agents.memory import HighWater
from serve_rt.model.ids import ReplicaId
from serve_rt.model.replica import Assignment


@dataclass(frozen=True, slots=True)
class Reading:
    """All assignments of this node at `revision`."""

    store_incarnation: str
    revision: int
    epoch: int
    assignments: tuple[Assignment, ...]
    pushed: bool = False

    def by_id(self) -> dict[ReplicaId, Assignment]:
        return {assignment.replica_id: assignment for assignment in self.assignments}


class Answer(enum.Enum):
    APPLY = "APPLY"
    OLD = "OLD"
    """Known already, or of a life of the store we do not know (yet)."""
    FENCED = "FENCED"
    """A higher epoch was seen: the sender must stop."""


def judge_reading(reading: Reading, seen: HighWater, *, fence: bool) -> Answer:
    if reading.pushed and fence and reading.store_incarnation == seen.store_incarnation and reading.epoch < seen.epoch:
        return Answer.FENCED
    if not reading.store_incarnation:
        return Answer.OLD
    if reading.store_incarnation != seen.store_incarnation:
        believed = not reading.pushed or not seen.store_incarnation
        return Answer.APPLY if believed else Answer.OLD
    return Answer.APPLY if reading.revision >= seen.revision else Answer.OLD


def after(reading: Reading, seen: HighWater) -> HighWater:
    """What has been seen once `reading` is applied."""
    if reading.store_incarnation != seen.store_incarnation:
        return HighWater(reading.store_incarnation, reading.revision, reading.epoch)
    return replace(seen, revision=max(seen.revision, reading.revision), epoch=max(seen.epoch, reading.epoch))
