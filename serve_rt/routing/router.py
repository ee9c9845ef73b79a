"""Puts requests of one deployment on its replicas: the queue, the choice, and what happens when a stream breaks.

Called by serve_rt.proxy.forward and by handles; next stop: serve_rt.transport.client_stream. Everything is decided in
synchronous passes (`_assign`), called after every event that may have made room; nothing is awaited between looking and
reserving.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable

from serve_rt.aio import TaskOwner
from serve_rt.config.protections import Protection, enabled
from serve_rt.credentials import ClusterToken
from serve_rt.errors import (
    BackPressureError,
    DeadlineExceededError,
    DeadlineUnreachableError,
    DeploymentUnavailableError,
    Outcome,
    QueueTimeoutError,
    ReplicaDiedError,
    ReplicaUnavailableError,
)
from serve_rt.model.ids import DeploymentKey
from serve_rt.model.routes import AppRoute, Availability, DeploymentRoute, ReplicaRoute
from serve_rt.routing.exchange import Exchange
from serve_rt.routing.forecast import Quickest, earliest_answer_s
from serve_rt.routing.link import Link
from serve_rt.routing.outgoing import Outgoing
from serve_rt.routing.replica_set import ReplicaSet
from serve_rt.routing.retry import Attempted, RetryBudget, may_run_again
from serve_rt.routing.tally import Tallies
from serve_rt.routing.waiting import HeldBodies, WaitingLine

CONNECT_PATIENCE_S = 2.0
"""How long a broadcast waits for streams that are being dialed: the first use of a handle has none yet."""


class Router:
    """*Resources*: made and closed by Routers."""

    def __init__(
        self, key: DeploymentKey, cluster: str, token: ClusterToken, client: str, tasks: TaskOwner, held: HeldBodies
    ) -> None:
        self.key = key
        self.route: DeploymentRoute | None = None
        self.on_starved: Callable[[DeploymentKey], None] | None = None
        self.on_errors: Callable[[], None] | None = None
        self.tallies: Tallies | None = None
        """While the route is guarded."""
        self._known = False
        self._line = WaitingLine(held)
        self._budget = RetryBudget()
        self._arrivals = itertools.count()
        self._assigning = False
        self._quickest = Quickest()
        self._refusal: BackPressureError | None = None

        def connect(route: ReplicaRoute) -> Link:
            return Link(route, cluster, token, client, self, tasks)

        self._replicas = ReplicaSet(connect)
        self.rotation = self._replicas.rotation

    @property
    def waiting(self) -> int:
        """Requests without a slot: the demand a scaler must see."""
        return len(self._line)

    @property
    def reserved(self) -> int:
        return self._replicas.reserved()

    def counters(self) -> dict[str, int]:
        return self._replicas.counters()

    def update(self, route: DeploymentRoute | None) -> None:
        """The feed's word; None when the deployment is gone from it."""
        self._known = self._known or route is not None
        self.route = route
        self._refusal = None
        self._guard(route is not None and route.guarded)
        self._replicas.rotation.follow(route.failures if route is not None else None)
        self._replicas.follow(route.replicas if route is not None else ())
        hopeless = self._hopeless()
        if hopeless is not None:
            for exchange in self._line.clear():
                exchange.fail(hopeless)
        self._assign()
        self._cry_if_starved()

    def _guard(self, guarded: bool) -> None:
        if not guarded:
            self.tallies = None
        elif self.tallies is None:
            self.tallies = Tallies(self._tell_errors)

    def _tell_errors(self) -> None:
        if self.on_errors is not None:
            self.on_errors()

    async def send(self, request: Outgoing) -> Exchange:
        """Put the request on a replica; wait in the queue while none has a free slot.

        *Errors*: BackPressureError, QueueTimeoutError, DeploymentUnavailableError, DeadlineExceededError: all of them
        mean that nothing was started.
        """
        exchange = self.admit(request)
        if exchange.attempt is None:
            try:
                await exchange.reserved()
            except asyncio.CancelledError:
                # The slot may have been reserved between the wake-up and this line: cancel gives it back either way.
                exchange.cancel("cancelled while waiting for a slot")
                raise
        return exchange

    def admit(self, request: Outgoing) -> Exchange:
        """What `send` does before it waits: the request has a slot, or stands in the queue.

        *Errors*: as `send`.
        """
        if request.deadline is not None and request.deadline <= time.monotonic():
            raise DeadlineExceededError(f"the deadline of request {request.request_id} passed before it was sent")
        hopeless = self._hopeless()
        if hopeless is not None:
            raise hopeless
        return self._place(request, self._free_link(request))

    def send_at_once(self, request: Outgoing) -> Exchange | None:
        """`send` for a request that finds a free slot; None, and nothing is done, when it must wait or be refused."""
        expired = request.deadline is not None and request.deadline <= time.monotonic()
        link = self._free_link(request) if not expired and self._hopeless() is None else None
        return self._place(request, link) if link is not None else None

    def _free_link(self, request: Outgoing) -> Link | None:
        """Where it could go now, past nobody who waits."""
        return self._replicas.choose(None, request.multiplexed_model_id) if not self._line else None

    def _place(self, request: Outgoing, link: Link | None) -> Exchange:
        self._budget.earn()
        exchange = Exchange(self, request, next(self._arrivals))
        if link is not None:
            self._reserve(exchange, link)
        else:
            self._queue(exchange)
        exchange.watch_deadline()
        return exchange

    async def send_everywhere(self, request: Outgoing) -> list[Exchange]:
        """Put a pinned request on every replica of the route, past their limits; one that cannot be reached within
        CONNECT_PATIENCE_S has an exchange that has failed.

        *Errors*: DeploymentUnavailableError when there is no replica.
        """
        links = self._replicas.links()
        if not links:
            raise self._hopeless() or DeploymentUnavailableError(self.key, f"{self.key} has no replicas.")
        waits = [asyncio.ensure_future(link.up.wait()) for link in links]
        try:
            await asyncio.wait(waits, timeout=CONNECT_PATIENCE_S)
        finally:
            for wait in waits:
                wait.cancel()
        return [self._send_to(link, request) for link in links]

    def _send_to(self, link: Link, request: Outgoing) -> Exchange:
        exchange = Exchange(self, request, next(self._arrivals))
        exchange.link = link
        if link.up.is_set() and link.stream is not None:
            self._reserve(exchange, link)
            exchange.watch_deadline()
        else:
            exchange.fail(ReplicaUnavailableError(link.route.replica_id))
        return exchange

    def _queue(self, exchange: Exchange) -> None:
        route = self.route
        limit = route.max_queued_requests if route is not None else -1
        if self._line.full(limit, len(exchange.request.body)):
            raise self._full(limit)
        if self._cannot_make_it(exchange, len(self._line)):
            raise self._too_late(exchange)
        self._line.push(exchange)
        exchange.queued_s = time.monotonic()
        self._watch_queue(exchange)
        self._cry_if_starved()

    def refusal(self) -> BackPressureError | None:
        """Why nobody is let in now, for whoever would rather not make a request in vain: others wait, and there is no
        place behind them. The same object for as long as it says the same. None: `admit` will tell."""
        waiting = len(self._line)
        if not waiting:
            return None
        limit = self.route.max_queued_requests if self.route is not None else -1
        if not self._line.full(limit, 0):
            return None
        if self._refusal is None or self._refusal.num_queued_requests != waiting:
            self._refusal = self._full(limit)
        return self._refusal

    def _full(self, limit: int) -> BackPressureError:
        route = self.route
        status = route.backpressure_status if route is not None else 503
        retry_after_s = route.backpressure_retry_after_s if route is not None else None
        return BackPressureError(len(self._line), limit, status, retry_after_s)

    def _watch_queue(self, exchange: Exchange) -> None:
        """It waits since `queued_s`, and has waited before."""
        if exchange.queue_timer is not None:
            exchange.queue_timer.cancel()
        left_s = exchange.queued_s + exchange.request.queue_timeout_s - exchange.waited_s - time.monotonic()
        loop = asyncio.get_running_loop()
        exchange.queue_timer = loop.call_later(max(0.0, left_s), self._queue_timeout, exchange)

    def retime(self, old: AppRoute, new: AppRoute) -> None:
        """The application's timeouts have changed: those who wait are told. What runs keeps the deadline it has."""
        for exchange in self._line.everyone():
            deadline = exchange.request.deadline
            exchange.request.retime(old, new)
            self._watch_queue(exchange)
            if exchange.request.deadline != deadline:
                exchange.watch_deadline()

    def _cannot_make_it(self, exchange: Exchange, ahead: int) -> bool:
        deadline = exchange.request.deadline
        if deadline is None or not enabled(Protection.SHED_LATE):
            return False
        now = time.monotonic()
        fastest_s = self._quickest.fastest_s(now)
        slots = self._replicas.slots() if ahead else 1
        if not fastest_s or not slots:  # nothing is known, or nobody is there now: who comes may be in time
            return False
        return now + earliest_answer_s(ahead, slots, fastest_s) > deadline

    def _too_late(self, exchange: Exchange) -> DeadlineUnreachableError:
        return DeadlineUnreachableError(
            f"{self.key} cannot answer request {exchange.request.request_id} before its deadline: {len(self._line)} "
            "others wait. Send less, allow more time, or add replicas."
        )

    def _cry_if_starved(self) -> None:
        """Requests wait and there is nobody to wait for: whoever scales must hear of it now."""
        if self._line and not len(self._replicas) and self.on_starved is not None:
            self.on_starved(self.key)

    def _queue_timeout(self, exchange: Exchange) -> None:
        waited_s = exchange.request.queue_timeout_s
        if self._line.remove(exchange):
            message = f"{self.key}: no replica had a free slot within {waited_s:g} s; {len(self._line)} others wait"
            exchange.fail(QueueTimeoutError(message))

    def _hopeless(self) -> DeploymentUnavailableError | None:
        """Why waiting is of no use, None while it may be."""
        route = self.route
        if route is None:
            return DeploymentUnavailableError(self.key, f"{self.key} was deleted.") if self._known else None
        if route.availability is Availability.DELETING:
            return DeploymentUnavailableError(self.key, route.message or f"{self.key} is being deleted.")
        if route.availability is Availability.FAILED and not route.replicas:
            return DeploymentUnavailableError(self.key, route.message)
        return None

    # --- assigning ------------------------------------------------------------------------------------------------

    def _assign(self) -> None:
        """Give free slots to those who wait, longest first."""
        if self._assigning:  # a request that fails at once can call back into here: the outer pass goes on
            return
        self._assigning = True
        try:
            while (exchange := self._line.first()) is not None:
                link = self._link_for(exchange)
                if link is None:
                    break
                self._line.remove(exchange)
                self._reserve_for_waiting(exchange, link)
        finally:
            self._assigning = False

    def _link_for(self, exchange: Exchange) -> Link | None:
        model_id = exchange.request.multiplexed_model_id
        if not exchange.retried:
            return self._replicas.choose(None, model_id)
        # Elsewhere if possible. A link that broke and has room again is a new stream to the same living process: one
        # that waited for another replica would stand in the way of everybody behind it, with nobody to wake them.
        return self._replicas.choose(exchange.link, model_id, sure=True) or self._replicas.choose(
            None, model_id, sure=True
        )

    def _reserve_for_waiting(self, exchange: Exchange, link: Link) -> None:
        if self._cannot_make_it(exchange, 0):
            exchange.fail(self._too_late(exchange))
        else:
            exchange.reserved_s = time.monotonic()
            self._reserve(exchange, link)

    def _reserve(self, exchange: Exchange, link: Link) -> None:
        if link.stream is None:  # only with LOCAL_EJECT off: the negative control sends into the void
            exchange.fail(ReplicaUnavailableError(link.route.replica_id))
        elif exchange.expired():
            exchange.fail(DeadlineExceededError(f"the deadline of request {exchange.request.request_id} passed"))
        else:
            if exchange.request.multiplexed_model_id:
                link.expect_model(exchange.request.multiplexed_model_id)
            exchange.put_on(link)

    # --- for links ------------------------------------------------------------------------------------------------

    def on_room(self) -> None:
        if self._line:
            self._assign()

    def on_silence(self, link: Link) -> None:
        """Its neighbours may be as dead, and their streams find out seconds later: a request that is asked again now
        must not go to one of them, for it is asked again only once."""
        for other in self._replicas.links():
            if other is not link and other.stream is not None and other.route.node_id == link.route.node_id:
                other.stream.doubt()

    def on_link_closed(self, link: Link) -> None:
        self._replicas.closed(link)

    # --- for exchanges --------------------------------------------------------------------------------------------

    def requeue(self, exchange: Exchange) -> None:
        """Back to its place by arrival. The stream calls on_room when it has told everybody: then it is assigned."""
        if exchange.request.pinned:
            exchange.fail(ReplicaUnavailableError(exchange.replica_id))
            return
        hopeless = self._hopeless()
        if hopeless is not None and not len(self._replicas):
            exchange.fail(hopeless)
            return
        self._line.push(exchange)
        exchange.queued_s = time.monotonic()
        self._watch_queue(exchange)
        self._cry_if_starved()

    def answer_began(self, exchange: Exchange) -> None:
        """One that had to wait gets its answer: told for the forecast."""
        now = time.monotonic()
        self._quickest.answered(now - exchange.reserved_s, now)

    def stream_broke(self, exchange: Exchange, outcome: Outcome) -> None:
        attempted = Attempted(
            outcome, exchange.request.retry_safe, exchange.retried, exchange.answer_began, exchange.replayable
        )
        if exchange.request.pinned:
            unavailable = ReplicaUnavailableError(exchange.replica_id)
            exchange.fail(
                unavailable if outcome is Outcome.NOT_STARTED else ReplicaDiedError(exchange.replica_id, outcome)
            )
            return
        again = may_run_again(attempted)
        if again and outcome is not Outcome.NOT_STARTED:
            again = self._budget.spend()
            exchange.retried = True
        if again:
            self.requeue(exchange)
        else:
            exchange.fail(ReplicaDiedError(exchange.replica_id, outcome))

    def withdrawn(self, exchange: Exchange) -> None:
        """It ended while it waited."""
        self._line.remove(exchange)

    def close(self) -> None:
        for exchange in self._line.clear():
            exchange.fail(DeploymentUnavailableError(self.key, "the router is closing"))
        self._replicas.close()

    def __repr__(self) -> str:
        return f"<Router {self.key.app}/{self.key.deployment} [{len(self._line)} waiting | {self._replicas!r}]>"
