"""What user code may record about its replica: `record_replica_metadata` once, `record_routing_stats` again and again.

Called by `serve_rt.replica.lifecycle`. The stats belong to routers of the user's own, which there are none of here:
they are asked for as a program expects, kept, and told to the log when it shows DEBUG. One that fails hurts nobody.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from serve_rt.errors import ServeException
from serve_rt.observe.measures import Measure, measures
from serve_rt.replica.failures import sentence
from serve_rt.replica.hooks import run_hook
from serve_rt.replica.user_code import UserCode
from serve_rt.replica.user_loop import UserLoop

log = logging.getLogger(__name__)
_TIMEOUT_S = 30.0
_FAILED = Measure("serve_routing_stats_error", "Failures of record_routing_stats.", ("error_type",))


async def replica_metadata(code: UserCode, user_loop: UserLoop) -> Mapping[str, Any]:
    """*Errors*: TypeError when it is not a dict; what the hook raised."""
    hook = code.hook("record_replica_metadata")
    if hook is None:
        return {}
    found = await run_hook(user_loop, hook, timeout_s=_TIMEOUT_S)
    if found is not None and not isinstance(found, dict):
        raise TypeError(f"record_replica_metadata() must return a dict or None, got {type(found).__name__}.")
    return found or {}


class RoutingStats:
    """Asks for the stats as long as `run` runs."""

    def __init__(self, code: UserCode, user_loop: UserLoop, period_s: float, timeout_s: float) -> None:
        self._code = code
        self._user_loop = user_loop
        self._period_s = period_s
        self._timeout_s = timeout_s
        self._last_trouble = ""
        self.latest: Mapping[str, Any] = {}

    @property
    def wanted(self) -> bool:
        return self._code.hook("record_routing_stats") is not None

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._period_s)
            try:
                self.latest = await self._ask()
                self._last_trouble = ""
            except Exception as error:  # user code: told once, and asked again
                measures.count(_FAILED, "timeout" if isinstance(error, TimeoutError) else "exception")
                self._tell(sentence(error))

    async def _ask(self) -> Mapping[str, Any]:
        hook = self._code.hook("record_routing_stats")
        if hook is None:
            raise ServeException("record_routing_stats is not there any more")
        found = await run_hook(self._user_loop, hook, timeout_s=self._timeout_s)
        if not isinstance(found, dict):
            raise TypeError(f"record_routing_stats() must return a dict, got {type(found).__name__}.")
        log.debug("routing stats: %s", found, extra={"action": "routing_stats"})
        return found

    def _tell(self, trouble: str) -> None:
        if trouble != self._last_trouble:
            self._last_trouble = trouble
            log.warning("record_routing_stats failed: %s", trouble, extra={"action": "routing_stats_failed"})
