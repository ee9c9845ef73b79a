"""Collects the signals of one running replica and applies `health.judge`: twice a second, more often in its silence.

Made by `keeper` when a replica gets ready, ended with its process. Silence is added up probe by probe, with a cap per
step: when this agent itself was frozen or starved, the time it slept is not held against its replicas.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from serve_rt.agents.health import Limits, Signals, Verdict, judge
from serve_rt.agents.proc_state import ProcSample, sample
from serve_rt.agents.replica_link import ReplicaLink
from serve_rt.aio import Clock
from serve_rt.config.protections import Protection, enabled
from serve_rt.errors import ServeException
from serve_rt.model.spec import DeploymentOptions

PERIOD_S = 0.5
PERIOD_WHILE_SILENT_S = 0.1
"""The limits of silence are promises, and a long step is a late judgement."""
PING_TIMEOUT_S = 0.5
_MAX_STEP_S = PERIOD_S + PING_TIMEOUT_S + 0.5
_BUSY_TICKS_PER_S = 1.0
"""Less CPU than 1 % of a core is no CPU: a stopped interpreter's timers may still be charged a tick."""


class Probe:
    def __init__(
        self,
        link: ReplicaLink,
        pid: int,
        options: Callable[[], DeploymentOptions],
        clock: Clock,
        on_verdict: Callable[[Verdict], None],
    ) -> None:
        self._link = link
        self._pid = pid
        self._options = options
        self._clock = clock
        self._on_verdict = on_verdict
        self._signals = Signals(silent_s=0.0, proc_state="S", no_cpu_s=0.0)
        self._last: ProcSample = sample(pid)
        self._last_at = clock.monotonic()
        self._check_at = self._last_at + options().health_check_period_s
        self._check: asyncio.Task[None] | None = None
        self.stats: dict[str, float] = {}
        """What the user's record_autoscaling_stats said last."""

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                await self._once()
                self._on_verdict(judge(self._signals, self._limits()))
                await asyncio.sleep(PERIOD_WHILE_SILENT_S if self._signals.silent_s else PERIOD_S)
        finally:
            if self._check is not None:
                self._check.cancel()

    async def _once(self) -> None:
        user_loop_age_s = await self._ping()
        now = self._clock.monotonic()
        step_s = min(now - self._last_at, _MAX_STEP_S)
        self._last_at = now
        silent_s = 0.0 if user_loop_age_s is not None else self._signals.silent_s + step_s
        self._signals = replace(self._signals, silent_s=silent_s, user_loop_age_s=user_loop_age_s or 0.0)
        self._look_at_process(step_s)
        if self._check is None and now >= self._check_at and silent_s == 0.0:
            self._check = asyncio.create_task(self._run_check(), name=f"check_health of {self._pid}")

    async def _ping(self) -> float | None:
        try:
            reply = await self._link.ping(PING_TIMEOUT_S)
        except ServeException:
            return None
        self.stats = dict(reply.autoscaling_stats)
        return float(reply.user_loop_age_s)

    def _look_at_process(self, step_s: float) -> None:
        now = sample(self._pid)
        busy = now.cpu_ticks - self._last.cpu_ticks > _BUSY_TICKS_PER_S * step_s
        self._last = now
        no_cpu_s = 0.0 if busy else self._signals.no_cpu_s + step_s
        self._signals = replace(self._signals, proc_state=now.state, no_cpu_s=no_cpu_s)

    async def _run_check(self) -> None:
        """One call of the user's check_health; it says nothing while the user loop is blocked."""
        options = self._options()
        try:
            reply = await self._link.check_health(options.health_check_timeout_s)
        except ServeException as error:
            self._checked(failed=self._loop_is_free(), message=f"no answer: {error}")
        else:
            if not reply.skipped:
                self._checked(failed=not reply.healthy, message=reply.message)
        finally:
            self._check_at = self._clock.monotonic() + options.health_check_period_s
            self._check = None

    def _checked(self, *, failed: bool, message: str) -> None:
        count = self._signals.failed_checks + 1 if failed else 0
        self._signals = replace(self._signals, failed_checks=count, check_message=message)

    def _loop_is_free(self) -> bool:
        return self._signals.silent_s == 0.0 and self._signals.user_loop_age_s < 1.0

    def _limits(self) -> Limits:
        options = self._options()
        return Limits(
            stuck_timeout_s=options.stuck_timeout_s,
            failure_threshold=options.health_check_failure_threshold,
            leave_busy_alone=enabled(Protection.BUSY_CHECK),
        )
