"""Is a replica sick, and what follows? A pure judgement over three signals, and nothing else.

1. the main loop's answer to a ping: no answer for 5 s takes the replica out of rotation;
2. the process in /proc: killed at 15 s of silence only if it is stopped, a zombie, or used no CPU for 10 s. One that
   burns CPU holds the GIL in C code: busy, killed only after `stuck_timeout_s`;
3. the age of the user loop's step: a blocked user loop (a model that runs synchronously inside `async def`) is never a
   reason before `stuck_timeout_s`.

`check_health` of the user's class counts only while the user loop is free. Called by `probe`, which collects signals.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

SILENT_S = 4.2
"""Before the promised 5: silence is counted probe by probe, so up to 0.6 s late (`probe`), and then others are told."""
KILL_AFTER_S = 13.8
"""Of the promised 15, for the same reason; the kill goes through the launcher."""
NO_CPU_S = 10.0


@dataclass(frozen=True, slots=True)
class Signals:
    silent_s: float
    """Since the last answer to a ping."""
    proc_state: str
    """One letter of /proc/PID/stat; "" when there is no such process."""
    no_cpu_s: float
    """For how long its CPU time has not grown."""
    user_loop_age_s: float = 0.0
    failed_checks: int = 0
    """Failures of `check_health` in a row."""
    check_message: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    stuck_timeout_s: float = 300.0
    failure_threshold: int = 3
    leave_busy_alone: bool = True
    """False only in negative controls: then silence alone kills."""


class Action(enum.Enum):
    KEEP = "KEEP"
    EJECT = "EJECT"
    """Out of rotation; it may come back."""
    KILL = "KILL"


@dataclass(frozen=True, slots=True)
class Verdict:
    action: Action
    reason: str = ""
    stacks: bool = False
    """Killed for taking too long: where it stands is worth telling."""


KEEP = Verdict(Action.KEEP)


def judge(signals: Signals, limits: Limits) -> Verdict:
    if signals.failed_checks >= limits.failure_threshold:
        return Verdict(
            Action.KILL, f"check_health failed {signals.failed_checks} times in a row: {signals.check_message}"
        )
    if signals.silent_s >= KILL_AFTER_S:
        return _silent_long(signals, limits)
    if signals.silent_s >= SILENT_S:
        return Verdict(Action.EJECT, f"no answer for {signals.silent_s:.1f} s ({_describe(signals)})")
    return _blocked(signals, limits)


def _silent_long(signals: Signals, limits: Limits) -> Verdict:
    reason = f"no answer for {signals.silent_s:.1f} s ({_describe(signals)})"
    stopped = signals.proc_state in ("T", "t")
    dead = signals.proc_state in ("Z", "X", "") or signals.no_cpu_s >= NO_CPU_S
    stuck = signals.silent_s >= limits.stuck_timeout_s
    if stopped or dead or stuck or not limits.leave_busy_alone:
        return Verdict(Action.KILL, reason, stacks=stuck)
    return Verdict(Action.EJECT, reason)


def _blocked(signals: Signals, limits: Limits) -> Verdict:
    limit_s = limits.stuck_timeout_s if limits.leave_busy_alone else KILL_AFTER_S
    if signals.user_loop_age_s >= limit_s:
        return Verdict(Action.KILL, f"its event loop was blocked for {signals.user_loop_age_s:.0f} s", stacks=True)
    return KEEP


def _describe(signals: Signals) -> str:
    if signals.proc_state in ("T", "t"):
        return "stopped"
    if signals.proc_state in ("Z", "X", ""):
        return "dead"
    return f"no CPU used for {signals.no_cpu_s:.0f} s" if signals.no_cpu_s >= NO_CPU_S else "busy"
