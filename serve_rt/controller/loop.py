"""One term of leadership: look, decide, write, push, until the key is lost.

Level-triggered: a change of the mirror, an agent's report or a timer only says "look again"; what to do is decided from
the whole of what is there. A pass plans on a view that contains its own last write (it waits for the mirror to show
it), so nothing is decided twice. A new leader first hears the agents that are registered (bounded), then decides.

Called by `election`; what comes next is `reconcile`, `apply`, `push`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from serve_rt.aio import Clock, cancel_and_wait
from serve_rt.config.protections import Protection, enabled
from serve_rt.controller.apply import apply
from serve_rt.controller.demand import all_tallies
from serve_rt.controller.exposition import Work, page
from serve_rt.controller.plan import Action, Plan, PublishRoute, SaveDeployment, describe
from serve_rt.controller.policies import Policies
from serve_rt.controller.push import Pusher
from serve_rt.controller.reconcile import look_again
from serve_rt.controller.resting import Past
from serve_rt.controller.scaling import Scaling
from serve_rt.controller.settings import ControlSettings
from serve_rt.credentials import ClusterToken
from serve_rt.errors import DeadlineExceededError, EtcdUnavailableError, FencedError, SessionLostError
from serve_rt.etcd.election import Leadership
from serve_rt.etcd.keys import Keys
from serve_rt.etcd.values import Put
from serve_rt.model.cluster import Cluster, MetaRecord
from serve_rt.model.ids import AppName, DeploymentKey, NodeId, VersionId
from serve_rt.model.scaling import ScalingOverview
from serve_rt.model.tally import Tally
from serve_rt.store.mirror import Mirror
from serve_rt.wire.records import encode

log = logging.getLogger(__name__)
ECHO_WAIT_S = 5.0
STORE_AWAY_RETRY_S = 0.25
MANY_PASSES = 1000
LOOK_AT_DEMAND_S = 0.25


class ControlLoop:
    """*Resources*: `run()` owns everything it starts and ends it, also when cancelled."""

    def __init__(
        self,
        mirror: Mirror,
        keys: Keys,
        leadership: Leadership,
        token: ClusterToken,
        settings: ControlSettings,
        clock: Clock,
    ) -> None:
        self._mirror, self._keys, self._leadership = mirror, keys, leadership
        self._settings, self._clock = settings, clock
        self._wake = asyncio.Event()
        self._demand_changed = asyncio.Event()
        told = (self._wake.set, self._demand_changed.set, self._deposed)
        self._pusher = Pusher(token, leadership.epoch, *told, clock)
        self._scaling = Scaling(clock.monotonic())
        self._policies = Policies(self._scaling, lambda: mirror.cluster, token, clock, self._demand_changed.set)
        self._held_since: float | None = None
        """Since when routes are gathered that may wait for others."""
        self._went_back_seen: set[tuple[NodeId, str]] = set()
        """Registrations whose proof that the store went back was acted upon."""
        self._said: tuple[str, ...] = ()
        self._busy_passes = 0
        self.work = Work()
        self._past: Past | None = None
        self._looked_at_all = float("-inf")
        self._tallies: dict[DeploymentKey, dict[VersionId, Tally]] = {}
        """As the last pass has seen them."""

    async def run(self) -> None:
        """Lead until the leadership is lost. *Errors*: FencedError, SessionLostError."""
        unsubscribe: Callable[[], None] = self._mirror.subscribe(lambda _: self._wake.set())
        deciding = asyncio.create_task(self._decide_for_ever(), name="control loop")
        scaling = asyncio.create_task(self._watch_demand(), name="control loop: demand")
        asking = asyncio.create_task(self._policies.run(), name="control loop: policies")
        losing = asyncio.create_task(self._leadership.lost.wait(), name="control loop: leadership lost")
        try:
            await asyncio.wait({deciding, scaling, asking, losing}, return_when=asyncio.FIRST_COMPLETED)
            for task in (deciding, scaling, asking):
                if task.done():
                    task.result()
        finally:
            unsubscribe()
            await cancel_and_wait(
                deciding, scaling, asking, losing
            )  # at once: a deposed leader must not finish what it began
            await self._pusher.close()

    def metrics(self) -> Callable[[], bytes]:
        """What makes the page of this moment, off the loop."""
        cluster = self._mirror.cluster
        return partial(page, cluster, self._scaling.overview(cluster), self.work, self._clock.wall())

    def scaling_overview(self, app: AppName | None) -> ScalingOverview:
        return self._scaling.overview(self._mirror.cluster, app)

    def _deposed(self, reason: str) -> None:
        log.warning("%s: this leader stops", reason, extra={"action": "leader_deposed"})
        if enabled(Protection.FENCE):
            self._leadership.lost.set()

    # --- the loop -------------------------------------------------------------------------------------------------

    async def _decide_for_ever(self) -> None:
        await self._hear_the_agents()
        while True:
            self._wake.clear()
            began = self._clock.monotonic()
            try:
                wait_s = await self._pass()
            except EtcdUnavailableError as error:
                log.warning("the store is away, nothing is decided: %s", error, extra={"action": "store_away"})
                await self._clock.sleep(STORE_AWAY_RETRY_S)
            else:
                ended = self._clock.monotonic()
                await self._sleep(wait_s)
                self.work = Work(self.work.passes + 1, ended - began, self._clock.monotonic() - ended)

    async def _hear_the_agents(self) -> None:
        """What agents report comes before what we decide: they know what runs, the store may be behind."""
        await self._see_own_key()
        self._follow()
        if not enabled(Protection.PUSH):
            return
        give_up = self._clock.monotonic() + self._settings.adopt_wait_s
        while not self._pusher.all_reported and self._clock.monotonic() < give_up:
            self._wake.clear()
            await self._sleep(give_up - self._clock.monotonic())
            self._follow()
        log.info("leading", extra={"action": "leading", "epoch": self._leadership.epoch})

    async def _see_own_key(self) -> None:
        """Decide on nothing older than our own election."""
        await self._shown(self._leadership.epoch)

    async def _pass(self) -> float:
        """One look at everything; how long until the next one if nothing happens."""
        await self._shown(await self._leadership.settle())
        await self._settle_history()
        self._follow()
        now = self._clock.monotonic()
        cluster = self._pusher.overlay(self._mirror.cluster)
        words = self._pusher.demand()
        targets, self._tallies = self._scaling.look(cluster, words, now), all_tallies(words.values())
        cluster = replace(cluster, scale_targets=targets, scale_notes=self._scaling.notes, tallies=self._tallies)
        plan = self._plan(cluster, now)
        held_s = self._hold(plan, cluster, now)
        if held_s > 0.0:
            return held_s
        self._say(plan.notes)
        if plan:
            await self._carry_out(plan.actions, cluster)
        else:
            self._busy_passes = 0
        next_look = now + self._settings.resync_s if plan.wake_at is None else plan.wake_at
        return max(0.0, min(next_look - now, self._settings.resync_s))

    def _plan(self, cluster: Cluster, now: float) -> Plan:
        """Of what has changed since the last pass; each `resync_s` of everything, whatever is thought to be at rest."""
        if now - self._looked_at_all >= self._settings.resync_s:
            self._past, self._looked_at_all = None, now
        looked = look_again(self._past, cluster, now, self._settings, self._clock.wall())
        self._past = looked.past
        return looked.plan

    def _say(self, notes: tuple[str, ...]) -> None:
        for note in notes:
            if note not in self._said:
                log.warning("%s", note, extra={"action": "held_back"})
        self._said = notes

    async def _carry_out(self, actions: tuple[Action, ...], cluster: Cluster) -> None:
        revision = await apply(actions, self._leadership, self._keys, cluster.route_shards)
        await self._shown(revision)
        self._follow()
        self._wake.set()  # the plan may have made the next step possible
        self._busy_passes += 1
        if self._busy_passes >= MANY_PASSES:
            # Each pass should bring the cluster nearer to rest: one that never gets there is a bug, not to be paid
            # for by etcd.
            log.error("the plan is never empty", extra={"action": "never_settled", "last": describe(actions[0])})
            await self._clock.sleep(0.5)

    async def _shown(self, revision: int) -> None:
        """Until the mirror shows `revision`: a plan made on an older view would be made twice."""
        while True:
            try:
                await self._mirror.wait_for(lambda cluster: cluster.revision >= revision, ECHO_WAIT_S)
                return
            except DeadlineExceededError as error:
                log.warning("%s", error, extra={"action": "mirror_behind"})

    def _hold(self, plan: Plan, cluster: Cluster, now: float) -> float:
        """How long to gather routes that may wait (a burst of ready replicas is then one write); 0: go on."""
        if not plan or not all(_may_wait(action, cluster) for action in plan.actions):
            self._held_since = None
            return 0.0
        if self._held_since is None:
            self._held_since = now
        left_s = self._held_since + self._settings.gather_routes_s - now
        if left_s <= 0.0:
            self._held_since = None
        return left_s

    async def _watch_demand(self) -> None:
        """Look at the demand when it changes and as time passes; a full pass only when a target should change."""
        while True:
            self._demand_changed.clear()
            now = self._clock.monotonic()
            words = self._pusher.demand()
            moves = self._scaling.look(self._mirror.cluster, words, now) or self._scaling.notes
            if moves or all_tallies(words.values()) != self._tallies:
                self._wake.set()
            await self._wait(self._demand_changed, LOOK_AT_DEMAND_S)

    def _follow(self) -> None:
        if enabled(Protection.PUSH):
            self._pusher.follow(self._mirror.cluster)

    async def _sleep(self, seconds: float) -> None:
        await self._wait(self._wake, seconds)

    async def _wait(self, event: asyncio.Event, seconds: float) -> None:
        waking = asyncio.create_task(event.wait(), name="control loop: woken")
        timer = asyncio.create_task(self._clock.sleep(seconds), name="control loop: timer")
        try:
            await asyncio.wait({waking, timer}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancel_and_wait(waking, timer)

    # --- the store's own history ----------------------------------------------------------------------------------

    async def _settle_history(self) -> None:
        """Before anything else: a store without a name gets one, and a store that went back in time a new one."""
        cluster = self._mirror.cluster
        ahead = {
            (node, record.session)
            for node, record in cluster.nodes.items()
            if record.highest_revision > cluster.revision
        }
        if cluster.incarnation and not ahead - self._went_back_seen:
            return
        if ahead:
            log.warning(
                "the store is at revision %d, below what nodes have seen: a new incarnation begins",
                cluster.revision,
                extra={"action": "store_went_back", "nodes": sorted(node for node, _ in ahead)},
            )
        meta = MetaRecord(incarnation=secrets.token_hex(8), created_at_s=self._clock.wall())
        written = await self._leadership.write([Put(self._keys.meta, encode(meta))])
        self._went_back_seen |= ahead
        await self._shown(written.revision)


def _may_wait(action: Action, cluster: Cluster) -> bool:
    if isinstance(action, PublishRoute):
        return not action.urgent
    if isinstance(action, SaveDeployment):  # progress alone; a new phase is news
        known = cluster.deployments.get(action.memory.key)
        return known is not None and known.phase is action.memory.phase
    return False


STOP_ACTING = (FencedError, SessionLostError)
"""What ends a term from within."""
