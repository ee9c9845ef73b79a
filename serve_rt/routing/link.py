"""One replica as its router sees it: a stream that is kept open, and dialed again with back-off when it breaks.

A link is usable from the moment the replica has said Hello, and dropped at once when the stream breaks. A retired link
(its route is gone) finishes what runs and says goodbye.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Protocol

from serve_rt.aio import Backoff, TaskOwner
from serve_rt.config.protections import Protection, enabled
from serve_rt.credentials import ClusterToken
from serve_rt.model.routes import ReplicaRoute
from serve_rt.routing.latency import Latency
from serve_rt.transport.client import ClientStream, ReplicaIdentity, dial

log = logging.getLogger(__name__)

FIRST_RETRY_S = 0.05
LONGEST_RETRY_S = 2.0
DOUBTFUL_S = 1.0
"""A stream that breaks after so long a silence may have gone with its whole machine."""
MODEL_EXPECTED_S = 2.0
"""A replica that was sent a request for a model counts as its holder for so long before it says so itself."""
COUNTERS = ("opens_sent", "heads_received", "data_sent", "data_received", "rejected_received")


class LinkOwner(Protocol):
    def on_room(self) -> None: ...

    def on_silence(self, link: Link) -> None:
        """Its stream broke after it had said nothing for a while: nobody there said goodbye."""
        ...

    def on_link_closed(self, link: Link) -> None:
        """A retired link has finished."""
        ...


class Link:
    """*Resources*: its task belongs to `tasks`; `retire` lets it finish, `close` ends it."""

    def __init__(
        self, route: ReplicaRoute, cluster: str, token: ClusterToken, client: str, owner: LinkOwner, tasks: TaskOwner
    ) -> None:
        self.route = route
        self.stream: ClientStream | None = None
        self.retired = False
        self.latency = Latency()
        self.up = asyncio.Event()
        """Set while the replica's Hello stands."""
        self.past: dict[str, int] = dict.fromkeys(COUNTERS, 0)
        self._expected_models: dict[str, float] = {}
        self._identity = ReplicaIdentity(cluster, route.replica_id, route.incarnation)
        self._token, self._client, self._owner, self._tasks = token, client, owner, tasks
        self._backoff = Backoff(FIRST_RETRY_S, LONGEST_RETRY_S)
        self._wanted = asyncio.Event()
        self._was_ready = False
        if not route.suspect:
            self._wanted.set()
        self._keeper = tasks.start(self._keep(), name=f"link to {route.replica_id}")
        self._keeper.add_done_callback(self._ended)  # no `finally` in it: cancelled before its first step it has none

    def change(self, route: ReplicaRoute) -> None:
        """The same process, perhaps suspect now or no longer: a suspect one is not dialed again."""
        self.route = route
        if route.suspect:
            self._wanted.clear()
        else:
            self._wanted.set()

    def has_room(self) -> bool:
        stream = self.stream
        if stream is None:
            return self._was_ready and not self.retired and not enabled(Protection.LOCAL_EJECT)
        return not self.retired and stream.has_room()

    def has_slot(self) -> bool:
        """`has_room`, of one that may be silent."""
        return self.stream is not None and not self.retired and self.stream.has_slot()

    @property
    def silent(self) -> bool:
        return self.stream is not None and self.stream.unresponsive

    @property
    def load(self) -> int:
        stream = self.stream
        return stream.reserved + stream.load_of_others if stream is not None else 0

    @property
    def reserved(self) -> int:
        return self.stream.reserved if self.stream is not None else 0

    # --- multiplexed models: only for requests that name one

    def expect_model(self, model_id: str) -> None:
        """A request for it is on its way there. Not prolonged: a replica that never says so is no holder."""
        if self.stream is not None and model_id in self.stream.models:
            return
        now = time.monotonic()
        self._forget_expected(now)
        self._expected_models.setdefault(model_id, now + MODEL_EXPECTED_S)

    def holds_model(self, model_id: str) -> bool:
        told = self.stream.models if self.stream is not None else ()
        return model_id in told or self._expected_models.get(model_id, 0.0) > time.monotonic()

    def model_count(self) -> int:
        self._forget_expected(time.monotonic())
        return len(self._expected_models) + (len(self.stream.models) if self.stream is not None else 0)

    def _forget_expected(self, now: float) -> None:
        told = self.stream.models if self.stream is not None else ()
        for model_id in [one for one, until in self._expected_models.items() if one in told or until <= now]:
            del self._expected_models[model_id]

    def counters(self) -> dict[str, int]:
        stream = self.stream
        return {name: self.past[name] + (getattr(stream, name) if stream is not None else 0) for name in COUNTERS}

    def retire(self) -> None:
        self.retired = True
        self._leave_if_idle()

    def close(self) -> None:
        self.retired = True
        self._keeper.cancel()

    # --- StreamOwner ----------------------------------------------------------------------------------------------

    def on_ready(self) -> None:
        self._was_ready = True
        self.up.set()
        self._backoff.reset()
        log.info("stream to %s is up", self.name, extra={"action": "stream_up"})
        self._leave_if_idle()
        self._owner.on_room()

    def on_room(self) -> None:
        if self.retired:
            self._leave_if_idle()
        self._owner.on_room()

    def on_silent(self) -> None:
        log.warning(
            "%s is out of rotation until it answers: requests are in flight and it is silent",
            self.name,
            extra={"action": "replica_ejected", "reason": "silence"},
        )
        self._owner.on_room()  # with so many out, others may be used after all

    def on_lost(self, reason: str) -> None:
        stream, self.stream = self.stream, None
        self.up.clear()
        if stream is not None:
            for name in COUNTERS:
                self.past[name] += getattr(stream, name)
        if self._was_ready and not self.retired:
            log.warning("stream to %s is lost: %s", self.name, reason, extra={"action": "stream_lost"})
        if stream is not None and stream.silent_s >= DOUBTFUL_S:
            self._owner.on_silence(self)
        self._owner.on_room()  # what returned to the queue may go elsewhere

    # --- keeping it open ------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        while not self.retired:
            await self._wanted.wait()
            self.stream = stream = ClientStream(self._identity, self._token, self._client, self)
            try:
                await dial(self.route.address, stream, self._tasks)
            except Exception:  # whatever it is, a replica must not stay without a stream until its route changes
                log.exception("dialing %s failed", self.name, extra={"action": "dial_failed"})
                stream.lost("dialing failed")
            if not self.retired:
                await asyncio.sleep(self._backoff.next_s())

    def _ended(self, _keeper: asyncio.Task[None]) -> None:
        self._owner.on_link_closed(self)

    def _leave_if_idle(self) -> None:
        """A retired link goes when nothing runs on it any more."""
        if not self.retired:
            return
        if self.stream is None or not self._was_ready:
            self._keeper.cancel()
        elif not self.stream.requests:
            self.stream.goodbye()

    @property
    def name(self) -> str:
        return f"{self._identity.replica_id}/{self._identity.incarnation} at {self.route.address}"

    def __repr__(self) -> str:
        return f"<Link {self.name} [{self.stream.state.value if self.stream else 'down'}]>"
