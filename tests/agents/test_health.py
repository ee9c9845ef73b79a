"""Who is sick, who is only busy: the judgement over three signals."""

from __future__ import annotations

import pytest

from serve_rt.agents.health import Action, Limits, Signals, judge

LIMITS = Limits(stuck_timeout_s=300.0)


def signals(
    silent_s: float = 0.0,
    proc_state: str = "S",
    no_cpu_s: float = 0.0,
    user_loop_age_s: float = 0.0,
    failed_checks: int = 0,
) -> Signals:
    return Signals(silent_s, proc_state, no_cpu_s, user_loop_age_s, failed_checks, "no GPU")


@pytest.mark.parametrize(
    ("seen", "action"),
    [
        (signals(), Action.KEEP),
        (signals(silent_s=4.1), Action.KEEP),
        (signals(silent_s=5.0), Action.EJECT),
        (signals(silent_s=13.7, proc_state="T", no_cpu_s=13.7), Action.EJECT),
        (signals(silent_s=15.0, proc_state="T", no_cpu_s=1.0), Action.KILL),
        (signals(silent_s=15.0, proc_state="Z"), Action.KILL),
        (signals(silent_s=15.0, proc_state="S", no_cpu_s=10.0), Action.KILL),
        (signals(silent_s=15.0, proc_state="R", no_cpu_s=0.0), Action.EJECT),
        (signals(silent_s=299.0, proc_state="R"), Action.EJECT),
        (signals(silent_s=300.0, proc_state="R"), Action.KILL),
        (signals(user_loop_age_s=20.0), Action.KEEP),
        (signals(user_loop_age_s=299.0), Action.KEEP),
        (signals(user_loop_age_s=300.0), Action.KILL),
        (signals(failed_checks=2), Action.KEEP),
        (signals(failed_checks=3), Action.KILL),
    ],
)
def test_verdicts(seen: Signals, action: Action) -> None:
    assert judge(seen, LIMITS).action is action


def test_without_the_protection_the_busy_are_killed() -> None:
    careless = Limits(leave_busy_alone=False)
    assert judge(signals(silent_s=15.0, proc_state="R"), careless).action is Action.KILL
    assert judge(signals(user_loop_age_s=20.0), careless).action is Action.KILL


def test_the_reason_names_what_was_seen() -> None:
    assert "stopped" in judge(signals(silent_s=15.0, proc_state="T"), LIMITS).reason
    assert "busy" in judge(signals(silent_s=6.0, proc_state="R"), LIMITS).reason
    assert "no GPU" in judge(signals(failed_checks=3), LIMITS).reason
