"""Who of a deployment's replicas is out of rotation, and who is in after all: ejections, and panic.

Three things take a replica out. A broken stream, at once: nothing can be sent there. Silence: requests in flight and no
part for a while (serve_rt.transport.client_stream). Declared failures in a row (serve_rt.routing.outliers), with a cap.
When more than half are out, those that can be reached are used in spite of what is said of them: a healthy rest that
drowns helps nobody. Only when *none* answers is nothing sent: in the queue a request may still go anywhere for free.

ReplicaSet asks while it chooses; exchanges tell how answers went. It costs nothing while nobody is out and no
rule is declared.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from serve_rt.config.protections import Protection, enabled
from serve_rt.model.routes import FailureRule
from serve_rt.routing.link import Link
from serve_rt.routing.outliers import Record, Standing, answered, at, may_eject_one, panics

log = logging.getLogger(__name__)
_FRESH = Record()


class Rotation:
    def __init__(self, links: Callable[[], Sequence[Link]]) -> None:
        self.rule: FailureRule | None = None
        self._links = links
        self._records: dict[Link, Record] = {}
        """Of those whose last answers failed, or who were out."""
        self.out: set[Link] = set()
        """Ejected for failures."""

    def follow(self, rule: FailureRule | None) -> None:
        """The route's word. Another rule begins anew."""
        if rule != self.rule:
            self.rule = rule
            self._records.clear()
            self.out.clear()

    def forget(self, link: Link) -> None:
        self._records.pop(link, None)
        self.out.discard(link)

    def answered(self, link: Link, status: int) -> None:
        """The first of an answer came over HTTP."""
        rule = self.rule
        if rule is None:
            return
        failed = status in rule.statuses
        record = self._records.get(link)
        if record is None and not failed:
            return
        now = time.monotonic()
        before = at(record or _FRESH, now)
        may_eject = enabled(Protection.OUTLIER_EJECT) and may_eject_one(
            len(self._links()), self._unusable(), rule.max_percent
        )
        after = answered(before, failed, rule, now, may_eject)
        self._records[link] = after
        if after.standing is Standing.OUT and before.standing is not Standing.OUT:
            self.out.add(link)
            log.warning(
                "%s is out of rotation for %.0f s: declared failures, %d in a row, the last with status %d",
                link.name, after.until_s - now, after.in_a_row, status,
                extra={"action": "replica_ejected", "reason": "failures", "times": after.times},
            )  # fmt: skip
        elif after.standing is Standing.IN and not after.in_a_row and not after.times:
            del self._records[link]

    def sift(self, free: list[Link]) -> list[Link]:
        """Of those with room, those in rotation. Called while somebody is ejected."""
        now = time.monotonic()
        for link in tuple(self.out):
            record = at(self._records[link], now)
            if record.standing is not Standing.OUT:
                self._records[link] = record
                self.out.discard(link)
                log.info("%s is tried again", link.name, extra={"action": "replica_on_trial"})
        if self.out and not self.panicking():
            return [link for link in free if link not in self.out]
        return free

    def overflow(self) -> list[Link]:
        """Nobody in rotation has room: in a panic, the silent ones that have."""
        links = self._links()
        if not any(link.silent for link in links) or not self.panicking():
            return []
        if not any(link.up.is_set() and not link.silent for link in links):
            return []
        return [link for link in links if link.silent and link.has_slot()]

    def panicking(self) -> bool:
        return enabled(Protection.PANIC) and panics(len(self._links()), self._unusable())

    def ejected(self) -> dict[str, int]:
        """How many are out of rotation, by reason."""
        links = self._links()
        return {
            "failures": len(self.out),
            "silence": sum(1 for link in links if link.silent),
            "disconnected": sum(1 for link in links if not link.up.is_set()),
        }

    def _unusable(self) -> int:
        return sum(1 for link in self._links() if not link.up.is_set() or link.silent or link in self.out)
