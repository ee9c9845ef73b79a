"""The end of a node: drain, stop everything, leave nothing behind. Within 3 s when idle.

Run by `agent` after SIGINT, SIGHUP, a Leave call, or the end of the owner. The order is that of traffic: the leader
steps down, proxies stop accepting, replicas finish what they have, then the registration, etcd and the launcher go.
A second SIGINT cuts every wait short.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from serve_rt.agents.children import Child, Children
from serve_rt.agents.launcher.records import ProcessKind
from serve_rt.agents.launcher_link import LauncherLink
from serve_rt.agents.registration import Registration
from serve_rt.agents.supervisor import Supervisor
from serve_rt.errors import ServeException

log = logging.getLogger(__name__)
_PROXY_AFTER_REPLICAS_S = 1.0
"""A proxy whose replicas have all ended has nothing left to wait for but idle connections."""
_CONTROLLER_S = 1.0
_ETCD_S = 3.0
_DEREGISTER_S = 2.0
_POLL_S = 0.01


class Leaving:
    def __init__(
        self,
        supervisor: Supervisor,
        children: Children,
        registration: Registration,
        launcher: LauncherLink,
        hurry: asyncio.Event,
    ) -> None:
        self._supervisor, self._children = supervisor, children
        self._registration, self._launcher = registration, launcher
        self._hurry = hurry

    async def run(self, drain_s: float) -> None:
        log.info("leaving: draining what runs here", extra={"action": "leaving"})
        proxies = self._children.of(ProcessKind.PROXY)
        controllers = self._children.of(ProcessKind.CONTROLLER)
        await _stop(controllers)
        await _stop(proxies)
        self._supervisor.drain_all()
        await self._until(lambda: self._supervisor.idle, drain_s)
        await self._kill_replicas()
        await self._end(proxies, _PROXY_AFTER_REPLICAS_S)
        await self._end(controllers, _CONTROLLER_S)
        await self._deregister()
        etcd = self._children.of(ProcessKind.ETCD)
        await _stop(etcd)
        await self._end(etcd, _ETCD_S)
        await self._launcher.shutdown()
        log.info("left", extra={"action": "left"})

    async def _kill_replicas(self) -> None:
        for keeper in self._supervisor.keepers():
            if not keeper.record.gone:
                log.warning("%s did not end: killing it", keeper.replica_id, extra={"action": "replica_killed"})
                try:
                    await self._launcher.kill_group(keeper.replica_id, keeper.record.incarnation)
                except ServeException as error:
                    log.error("cannot kill %s: %s", keeper.replica_id, error, extra={"action": "kill_failed"})

    async def _end(self, children: Iterable[Child], timeout_s: float) -> None:
        waited = list(children)
        await self._until(lambda: all(child.gone for child in waited), timeout_s)
        for child in waited:
            if not child.gone:
                await child.kill()

    async def _deregister(self) -> None:
        try:
            async with asyncio.timeout(_DEREGISTER_S):
                await self._registration.leave()
        except (ServeException, TimeoutError) as error:
            log.warning("the registration is left to expire: %s", error, extra={"action": "registration_left"})

    async def _until(self, done: Callable[[], bool], timeout_s: float) -> None:
        """Return when `done()`, after `timeout_s`, or in a hurry."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        # Polled: what is waited for ends in other tasks of several owners, and nobody waits here in normal life.
        while not done() and not self._hurry.is_set() and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)


async def _stop(children: Iterable[Child]) -> None:
    await asyncio.gather(*(child.stop() for child in children))
