"""Asks user code whether it is well, when it can be asked.

While user code holds its loop, silence says nothing: the check is skipped and the agent judges by CPU time instead
(design, "Health"). Only a check that ran and raised, or one that did not end while the loop was free, is unhealthy.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from serve_rt.replica.failures import sentence, users_traceback
from serve_rt.replica.hooks import run_hook
from serve_rt.replica.user_code import UserCode
from serve_rt.replica.user_loop import UserLoop

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Health:
    healthy: bool
    skipped: bool = False
    message: str = ""


async def check_health(code: UserCode, user_loop: UserLoop, timeout_s: float) -> Health:
    hook = code.hook("check_health")
    if hook is None:
        return Health(healthy=True)
    if user_loop.blocked:
        return _busy(user_loop)
    try:
        await run_hook(user_loop, hook, timeout_s=timeout_s)
    except TimeoutError as error:
        if user_loop.blocked:
            return _busy(user_loop)
        words = str(error) or f"check_health did not end within health_check_timeout_s={timeout_s:g}"
        return Health(healthy=False, message=words)
    except Exception as error:  # the user's verdict
        log.warning(
            "check_health failed: %s\n%s", sentence(error), users_traceback(error), extra={"action": "unhealthy"}
        )
        return Health(healthy=False, message=sentence(error))
    return Health(healthy=True)


def _busy(user_loop: UserLoop) -> Health:
    return Health(healthy=True, skipped=True, message=f"user code has held its loop for {user_loop.age_s:.1f} s")
