"""Session: a lease that is kept alive, and the moment from which we must not trust it any more.

An agent has one for its registration, a leader another. The deadline is counted from when the last good renewal was
*sent*, on our own monotonic clock, and the session is declared lost at nine tenths of it: before etcd can have expired
the lease and somebody else taken over. What follows from a lost session is the owner's business; here it only becomes
known.
"""

from __future__ import annotations

import asyncio
import logging

from serve_rt.aio import Clock, SystemClock, TaskOwner
from serve_rt.errors import EtcdError, EtcdUnavailableError, SessionLostError
from serve_rt.etcd.contract import EtcdStore

log = logging.getLogger(__name__)

TRUSTED_PART = 0.9
RENEWALS_PER_TTL = 3
CLOSE_TIMEOUT_S = 1.0


class Session:
    """*Resources*: `open()` starts tasks and takes a lease; `close()` ends both, and deletes the lease's keys."""

    def __init__(self, store: EtcdStore, lease: int, ttl_s: float, sent_s: float, clock: Clock) -> None:
        self._store = store
        self.clock = clock
        self._ttl_s = ttl_s
        self.lease = lease
        self.deadline = sent_s + ttl_s
        """On the clock's monotonic(): the lease lives at least until then, if etcd has it at all."""
        self.lost = asyncio.Event()
        self.revoked = False
        """etcd has confirmed that the lease and its keys are gone."""
        self._tasks = TaskOwner(f"etcd session {lease:x}", on_failure=lambda _: self._lose("its keep-alive failed"))

    @classmethod
    async def open(cls, store: EtcdStore, ttl_s: int = 10, *, clock: Clock | None = None) -> Session:
        """*Errors*: those of `grant`; a lease whose grant went unanswered expires by itself."""
        clock = clock or SystemClock()
        sent_s = clock.monotonic()
        session = cls(store, await store.grant(ttl_s), ttl_s, sent_s, clock)
        session._tasks.start(session._keep_alive(), name="keep-alive")
        session._tasks.start(session._watch_deadline(), name="deadline")
        return session

    @property
    def trusted_until(self) -> float:
        return self.deadline - (1 - TRUSTED_PART) * self._ttl_s

    @property
    def alive(self) -> bool:
        """Asks the clock, not the task: a process that was stopped and goes on knows at once."""
        return not self.lost.is_set() and self.clock.monotonic() < self.trusted_until

    def check(self) -> None:
        """*Errors*: SessionLostError unless alive."""
        if not self.alive:
            raise SessionLostError(f"the session of lease {self.lease:x} is lost")

    async def close(self) -> None:
        """Lost for us at once, revoked in etcd if it can be reached; otherwise it expires there."""
        self._lose("closed", level=logging.DEBUG)
        await self._tasks.close()
        try:
            await self._store.revoke(self.lease, timeout_s=CLOSE_TIMEOUT_S)
            self.revoked = True
        except EtcdError as error:
            log.info("lease %x is left to expire: %s", self.lease, error, extra={"action": "lease_left"})

    async def _keep_alive(self) -> None:
        """Ends with the session: renewing a lost one would keep its keys from whoever is to take over."""
        pause_s = self._ttl_s / RENEWALS_PER_TTL
        while True:
            await self.clock.sleep(pause_s)
            if self.lost.is_set():
                return
            pause_s = self._ttl_s / RENEWALS_PER_TTL
            sent_s = self.clock.monotonic()
            try:
                remaining_s = await self._store.keep_alive(self.lease, timeout_s=self._ttl_s / 4)
            except SessionLostError:
                self._lose("etcd does not have it any more")
                return
            except EtcdUnavailableError as error:
                log.info("lease %x not renewed: %s", self.lease, error, extra={"action": "lease_not_renewed"})
                pause_s = min(0.5, self._ttl_s / 10)
            else:
                self.deadline = max(self.deadline, sent_s + min(remaining_s, self._ttl_s))

    async def _watch_deadline(self) -> None:
        while (left_s := self.trusted_until - self.clock.monotonic()) > 0:
            await self.clock.sleep(left_s)
        self._lose("it could not be renewed in time")

    def _lose(self, why: str, level: int = logging.WARNING) -> None:
        if not self.lost.is_set():
            self.lost.set()
            log.log(level, "session of lease %x lost: %s", self.lease, why, extra={"action": "session_lost"})

    def __repr__(self) -> str:
        left_s = self.trusted_until - self.clock.monotonic()
        return f"<Session {self.lease:x} {'alive' if self.alive else 'lost'}, {left_s:.1f} s left>"
