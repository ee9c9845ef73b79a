"""The life of a replica: listen, construct, serve, drain, end.

`serve_rt.replica.main` makes one and awaits `run()`; the agent's calls (`serve_rt.replica.service`) and SIGTERM only
set things in motion here. The exit code is what `run()` returns: 0 after a drain, 1 when the constructor failed.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from serve_rt.aio import TaskOwner
from serve_rt.api.replica_context import ReplicaContext, ReplicaRank
from serve_rt.errors import ConfigError
from serve_rt.model.spec import LoggingOptions
from serve_rt.model.starts import ReplicaStart
from serve_rt.multiplex.decorator import unload_all
from serve_rt.replica.autoscaling_stats import AutoscalingStats
from serve_rt.replica.constructing import Constructed, construct, docs_path, reconfigure, wants_rank
from serve_rt.replica.dispatch import Dispatch
from serve_rt.replica.failures import sentence, users_traceback
from serve_rt.replica.health import Health, check_health
from serve_rt.replica.recording import RoutingStats
from serve_rt.replica.reports import Phase, Reports
from serve_rt.replica.thread_pool import ThreadPool
from serve_rt.replica.user_loop import UserLoop
from serve_rt.transport.server import StreamService

log = logging.getLogger(__name__)
FAILED_DELIVERY_S = 2.0
CANCELLED_GRACE_S = 0.5
"""After the drain's time is up: what user code gets to handle its cancellation."""
ABANDONED_GRACE_S = 1.0
"""How often a draining worker asks whether anybody still waits for its tasks."""
DESTRUCTOR_S = 5.0
ORPHAN_CHECK_S = 5.0

_kept: list[object] = []
"""The user's instance, until the process ends: its `__del__` has been called and must not be called again."""


class Lifecycle:
    """Main loop only."""

    def __init__(
        self,
        start: ReplicaStart,
        context: ReplicaContext,
        service: StreamService,
        dispatch: Dispatch,
        user_loop: UserLoop,
        pool: ThreadPool,
        tasks: TaskOwner,
    ) -> None:
        self.reports = Reports(start.assignment.replica_id, start.incarnation)
        self.autoscaling_stats = AutoscalingStats()
        self._start = start
        self._context = context
        self._service = service
        self._dispatch = dispatch
        self._user_loop = user_loop
        self._pool = pool
        self._tasks = tasks
        self._constructed: Constructed | None = None
        self._user_config_json = start.assignment.spec.options.user_config_json or "null"
        self._drain_asked = asyncio.Event()
        self._drain_timeout_s = start.assignment.spec.options.graceful_shutdown_timeout_s
        self._agent_seen_s = time.monotonic()
        self.on_logging: Callable[[LoggingOptions], None] = lambda _options: None
        """Given by main: what changes the log."""

    # --- what the agent and signals ask ---------------------------------------------------------------------------

    def agent_seen(self) -> None:
        self._agent_seen_s = time.monotonic()

    def ask_drain(self, timeout_s: float | None = None) -> None:
        """Drain soon; asked twice, the shorter time counts."""
        if timeout_s is not None:
            self._drain_timeout_s = min(timeout_s, self._drain_timeout_s) if self._drain_asked.is_set() else timeout_s
        self._drain_asked.set()

    async def check_health(self) -> Health:
        if self._constructed is None:
            return Health(healthy=True, skipped=True, message="the constructor has not ended")
        timeout_s = self._start.assignment.spec.options.health_check_timeout_s
        return await check_health(self._constructed.code, self._user_loop, timeout_s)

    def set_extra_slots(self, extra: int) -> None:
        """Take so many requests beyond the limit: as many as wait for others that need a place."""
        limit = self._context.max_ongoing_requests + extra
        self._service.set_capacity(limit)
        self._pool.set_limit(limit)

    async def reconfigure(
        self,
        user_config_json: str | None,
        max_ongoing_requests: int,
        logging_options: LoggingOptions | None = None,
        rank: ReplicaRank | None = None,
        world_size: int = 0,
    ) -> str:
        """Returns the error in the user's words, "" when all went well."""
        if max_ongoing_requests > 0:
            self._service.set_capacity(max_ongoing_requests)
            self._pool.set_limit(max_ongoing_requests)
            self._context.max_ongoing_requests = max_ongoing_requests
        trouble = ""
        if logging_options is not None:
            try:
                self.on_logging(logging_options)
            except OSError as error:
                trouble = f"logging_config: {error}"
        moved = rank is not None and rank != self._context.rank
        if rank is not None:
            self._context.rank, self._context.world_size = rank, world_size
        if self._constructed is None:
            return trouble if user_config_json is None else "the constructor has not ended: ask again when it is READY"
        if user_config_json is None and not (moved and wants_rank(self._constructed.code)):
            return trouble
        config_json = self._user_config_json if user_config_json is None else user_config_json
        try:
            await reconfigure(self._constructed.code, config_json, self._user_loop, self._context.rank)
        except Exception as error:  # the user's verdict, told to the user
            return users_traceback(error)
        self._user_config_json = config_json
        return trouble

    # --- the walk -------------------------------------------------------------------------------------------------

    async def run(self) -> int:
        self._tasks.start_eternal(self._watch_for_orphanhood(), name="orphan watch")
        if not await self._become_ready():
            return 0 if self._drain_asked.is_set() else 1
        await self._drain_asked.wait()
        await self._drain()
        return 0

    async def _become_ready(self) -> bool:
        constructing = self._tasks.start(self._construct(), name="constructing")
        drain = asyncio.create_task(self._drain_asked.wait(), name="drain asked")
        try:
            await asyncio.wait({constructing, drain}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            drain.cancel()
        if not constructing.done():
            # Told to go before it was ready: there is nothing to finish, and a constructor cannot be interrupted.
            log.info("drained while constructing", extra={"action": "replica_ended"})
            self.reports.move(Phase.DRAINING)
            await asyncio.wait({constructing}, timeout=0)
            return False
        ready: bool = constructing.result()
        return ready

    async def _construct(self) -> bool:
        try:
            done = await construct(self._start, self._context, self._user_loop)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # user code: told to the user, through the agent
            await self._report_failure(error)
            return False
        self._constructed = done
        _kept.append(done.code.servable)
        gc.freeze()  # models and modules are here to stay: the collector need not walk them for each request
        state = done.lifespan.state if done.lifespan is not None else None
        self._dispatch.install(done.code, state)
        self._service.set_accepting(True)
        self._start_asking_for_stats(done)
        self.reports.move(Phase.READY, imports=done.imports, constructor_s=done.took_s, docs_path=docs_path(done.code))
        self._tasks.start(self.autoscaling_stats.record(done.code, self._user_loop), name="autoscaling stats")
        log.info("ready after %.3f s", done.took_s, extra={"action": "replica_ready"})
        return True

    def _start_asking_for_stats(self, done: Constructed) -> None:
        options = self._start.assignment.spec.options
        period_s, timeout_s = options.routing_stats_period_s, options.routing_stats_timeout_s
        stats = RoutingStats(done.code, self._user_loop, period_s, timeout_s)
        if stats.wanted:
            self._tasks.start_eternal(stats.run(), name="routing stats")

    async def _report_failure(self, error: BaseException) -> None:
        # What is ours to say (wrong Python, no payload) needs no traceback; what the user raised needs theirs.
        text = sentence(error) if isinstance(error, ConfigError) else users_traceback(error)
        log.error("the constructor failed:\n%s", text, extra={"action": "constructor_failed"})
        self.reports.move(Phase.FAILED, message=text)
        if not await self.reports.delivered(FAILED_DELIVERY_S):
            log.warning("no agent took the report of the failure", extra={"action": "report_undelivered"})

    async def _drain(self) -> None:
        log.info("draining: %d requests run", self._dispatch.ongoing, extra={"action": "replica_draining"})
        self.reports.move(Phase.DRAINING)
        deadline = asyncio.get_running_loop().time() + self._drain_timeout_s
        await self._finish(deadline)
        if self._dispatch.ongoing:
            left = self._dispatch.ongoing
            log.warning("%d requests did not end in time: cancelled", left, extra={"action": "drain_timeout"})
            self._dispatch.stop_all()
            await self._service.drain(CANCELLED_GRACE_S)
        await self._end_user_code(max(1.0, min(DESTRUCTOR_S, deadline - asyncio.get_running_loop().time())))

    async def _finish(self, deadline: float) -> None:
        """Wait for what runs; where that was asked for, not for work that nobody waits for any more."""
        if not self._context.ends_when_abandoned:
            await self._service.drain(self._drain_timeout_s)
            return
        loop = asyncio.get_running_loop()
        while loop.time() < deadline and not await self._service.drain(min(ABANDONED_GRACE_S, deadline - loop.time())):
            if self._dispatch.abandoned:
                return

    async def _end_user_code(self, timeout_s: float) -> None:
        assert self._constructed is not None
        lifespan, code = self._constructed.lifespan, self._constructed.code
        if lifespan is not None:
            await self._last_words(lambda: lifespan.shutdown(timeout_s), "ASGI shutdown", timeout_s)
        await self._last_words(lambda: unload_all(code.servable), "unloading the models", timeout_s)
        destructor = code.hook("__del__")
        if destructor is not None:
            await self._last_words(lambda: _call(destructor), "__del__", timeout_s)

    async def _last_words(self, work: Callable[[], Any], name: str, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._user_loop.run(work, name=name)
        except TimeoutError:
            log.warning("%s did not end within %.1f s", name, timeout_s, extra={"action": "end_timeout"})
        except Exception as error:  # user code at the very end: told, not obeyed
            log.error("%s failed:\n%s", name, users_traceback(error), extra={"action": "end_failed"})

    async def _watch_for_orphanhood(self) -> None:
        while True:
            await asyncio.sleep(min(ORPHAN_CHECK_S, self._start.orphan_timeout_s / 4))
            if self.reports.watchers:
                self.agent_seen()
            alone_s = time.monotonic() - self._agent_seen_s
            if alone_s > self._start.orphan_timeout_s and not self._drain_asked.is_set():
                log.warning("no agent for %.0f s: draining", alone_s, extra={"action": "replica_orphaned"})
                self.ask_drain()

    def close(self) -> None:
        """Watches end; the agent sees the process go by its handle."""
        self.reports.close()


async def _call(destructor: Callable[[], Awaitable[None] | None]) -> None:
    result = destructor()
    if inspect.isawaitable(result):
        await result
