"""The replicas of one deployment: links that follow the route."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from serve_rt.model.ids import ReplicaId
from serve_rt.model.routes import ReplicaRoute
from serve_rt.routing.link import COUNTERS, Link
from serve_rt.routing.pick import candidates_for_model, pick
from serve_rt.routing.rotation import Rotation

_Process = tuple[ReplicaId, int, str]


class ReplicaSet:
    def __init__(self, connect: Callable[[ReplicaRoute], Link]) -> None:
        self._connect = connect
        self._links: dict[_Process, Link] = {}
        self._retired: set[Link] = set()
        self._past: dict[str, int] = dict.fromkeys(COUNTERS, 0)
        self._turn = 0
        self.rotation = Rotation(self.links)

    def __len__(self) -> int:
        return len(self._links)

    def links(self) -> tuple[Link, ...]:
        """One for each replica of the route."""
        return tuple(self._links.values())

    def follow(self, routes: tuple[ReplicaRoute, ...]) -> None:
        """Dial new processes at once; let those that are gone from the route finish what they have."""
        wanted = {(route.replica_id, route.incarnation, route.address): route for route in routes}
        for process in [process for process in self._links if process not in wanted]:
            link = self._links.pop(process)
            self._retired.add(link)
            self.rotation.forget(link)
            link.retire()
        for process, route in wanted.items():
            link_now = self._links.get(process)
            if link_now is None:
                self._links[process] = self._connect(route)
            else:
                link_now.change(route)

    def choose(self, excluded: Link | None = None, model_id: str = "", *, sure: bool = False) -> Link | None:
        """The link that the next request should take, None when no slot is known to be free.

        One that names a multiplexed model goes where the model is, or will be; one that is sent again goes to nobody
        who is silent (`sure`): it is sent again only once.
        """
        free = [link for link in self._links.values() if link is not excluded and link.has_room()]
        if self.rotation.out:
            free = self.rotation.sift(free)
        if not free and not sure:
            free = self.rotation.overflow()
        if not free:
            return None
        if model_id and len(free) > 1:
            holds, counts = [link.holds_model(model_id) for link in free], [link.model_count() for link in free]
            free = [free[index] for index in candidates_for_model(holds, counts)]
        if len(free) == 1:
            return free[0]
        self._turn += 1
        now = time.monotonic()

        def latency_s(index: int) -> float:
            return free[index].latency.seconds(now)

        return free[pick([link.load for link in free], latency_s, self._turn, random.randrange)]

    def closed(self, link: Link) -> None:
        """A link has ended for good: its counts stay."""
        self._retired.discard(link)
        for name, count in link.counters().items():
            self._past[name] += count
            link.past[name] = 0

    def close(self) -> None:
        for link in (*self._links.values(), *self._retired):
            link.close()

    def counters(self) -> dict[str, int]:
        live = [link.counters() for link in (*self._links.values(), *self._retired)]
        return {name: self._past[name] + sum(counts[name] for counts in live) for name in COUNTERS}

    def slots(self) -> int:
        """What the replicas in rotation can run at a time, for all their callers together."""
        return sum(link.stream.capacity for link in self._links.values() if link.stream is not None)

    def reserved(self) -> int:
        return sum(link.reserved for link in (*self._links.values(), *self._retired))

    def __repr__(self) -> str:
        busy = sum(1 for link in self._links.values() if link.reserved)
        ready = sum(1 for link in self._links.values() if link.has_room() and not link.reserved)
        return f"{len(self._links)} replicas: {busy} busy, {self.reserved()} reserved, {ready} idle"
