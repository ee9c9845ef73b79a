"""A candidate's life: campaign, lead, lose, campaign again. One per agent, one leader in the cluster.

The leader's lease is its own, not the node's: an agent may be restarted without a change of leader. Losing is normal:
whatever ends a term (etcd away for longer than the lease, a pause, a polite stop) ends here and nowhere else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from serve_rt.aio import Backoff, Clock
from serve_rt.controller.loop import STOP_ACTING
from serve_rt.errors import EtcdUnavailableError
from serve_rt.etcd.contract import EtcdStore
from serve_rt.etcd.election import Election, Leadership
from serve_rt.etcd.keys import Keys
from serve_rt.etcd.lease import Session
from serve_rt.model.cluster import LeaderRecord
from serve_rt.wire.records import encode

log = logging.getLogger(__name__)
RESIGN_LIMIT_S = 0.4
"""A polite stop takes at most half a second; a key that could not be deleted in time goes with its lease."""

Lead = Callable[[Leadership], Awaitable[None]]


async def stand_for_ever(
    store: EtcdStore, keys: Keys, record: LeaderRecord, lease_s: float, lead: Lead, clock: Clock
) -> None:
    """Candidate until cancelled. `lead` runs one term and returns or raises when it is over.

    *Errors*: EtcdError when etcd refuses for good (permissions).
    """
    backoff = Backoff(0.1, 2.0)
    left_over: set[int] = set()
    while True:
        try:
            await _revoke(store, left_over)
            session = await Session.open(store, round(lease_s), clock=clock)
        except EtcdUnavailableError as error:
            log.info("no lease, so no candidate: %s", error, extra={"action": "candidate_without_lease"})
            await clock.sleep(backoff.next_s())
            continue
        try:
            await _one_term(store, session, keys, record, lead)
            backoff.reset()
        except STOP_ACTING as error:
            log.warning("this term is over: %s", error, extra={"action": "term_over"})
        except EtcdUnavailableError as error:
            log.warning("the store is away: %s", error, extra={"action": "store_away"})
        finally:
            await _bounded(session.close())
            if not session.revoked:
                left_over.add(session.lease)
        await clock.sleep(backoff.next_s())


async def _revoke(store: EtcdStore, leases: set[int]) -> None:
    """Leases of our own former terms, which etcd could not be told of while it was away: a restarted etcd counts each
    from the start again, and the leader key under one would keep everybody waiting that long (measured: 10 s).
    """
    for lease in tuple(leases):
        await store.revoke(lease)
        leases.discard(lease)


async def _one_term(store: EtcdStore, session: Session, keys: Keys, record: LeaderRecord, lead: Lead) -> None:
    leadership = await Election(store, session, keys.leader, encode(record)).campaign()
    log.info("elected", extra={"action": "elected", "epoch": leadership.epoch})
    try:
        await lead(leadership)
    finally:
        await _bounded(leadership.resign())


async def _bounded(farewell: Awaitable[None]) -> None:
    """Also when cancelled: the farewell is what lets the next leader begin at once."""
    task = asyncio.ensure_future(farewell)
    done, _ = await asyncio.wait({task}, timeout=RESIGN_LIMIT_S)
    if not done:
        task.cancel()
        await asyncio.wait({task}, timeout=RESIGN_LIMIT_S)
    elif not task.cancelled() and task.exception() is not None:
        log.warning("farewell failed: %s", task.exception(), extra={"action": "farewell_failed"})
