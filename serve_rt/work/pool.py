"""A pool of task workers: as many processes as tasks need and the cluster has room for, none when nothing is to do.

One hidden application `tasks:<needs>:<digest>` for each pair of a program's code and what its tasks need, shared by
all its functions and by all processes that run this code. It is deployed at the first call that finds none. Scaling,
queueing, placing and restarting are those of any deployment.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
import weakref
from collections.abc import Mapping
from dataclasses import replace

from serve_rt.api import session as sessions
from serve_rt.api.local_mode import is_local
from serve_rt.api.session import Session
from serve_rt.handle.runtime import HandleRuntime
from serve_rt.model.ids import AppName, DeploymentKey, DeploymentName
from serve_rt.model.resources import Resources
from serve_rt.model.routes import Availability, DeploymentRoute
from serve_rt.model.spec import AutoscalingOptions, DeploymentOptions
from serve_rt.model.status import ApplicationStatusOverview, NodeOverview
from serve_rt.work.deploying import LONGEST_S, Prepared, deploy, prepare
from serve_rt.work.options import Needs
from serve_rt.work.worker import TaskWorker

log = logging.getLogger(__name__)
APP_PREFIX = "tasks:"
IDLE_S = 5.0
"""A worker that had nothing to do for so long goes, the last one too."""
LOOK_BACK_S = 1.0
MOST_WORKERS = 1000
WITHOUT_CPU = 4
"""Workers per CPU of the cluster for tasks that ask for no CPU."""
KEPT_POOLS = 32
"""Records of pools without a worker beyond these are removed when another pool is made, oldest first."""


class Pool:
    """One process's view of a pool; `opened` and `forget` are called on the runtime's loop."""

    def __init__(self, needs: Needs) -> None:
        self._needs = needs
        self._prepared = prepare("worker", TaskWorker, (), needs, DeploymentOptions())
        self.app = f"{APP_PREFIX}{needs.shown}:{self._prepared.spec.version[:8]}"
        self.key = DeploymentKey(AppName(self.app), DeploymentName("worker"))
        self.ready = False
        self._opening: asyncio.Future[None] | None = None

    async def opened(self, runtime: HandleRuntime) -> None:
        """Return when it is deployed. *Errors*: those of a deploy."""
        if self._opening is None or self._opening.done():
            self._opening = asyncio.ensure_future(self._open(runtime))
        await asyncio.shield(self._opening)

    async def _open(self, runtime: HandleRuntime) -> None:
        routes = await runtime.routes()
        table = routes.table
        route = next((one for one in table.deployments if one.key == self.key), None) if table is not None else None
        if route is None or not _serves(route):
            await asyncio.to_thread(self._deploy, runtime)
        self.ready = True

    def forget(self) -> None:
        """It is gone, as it seems: the next call looks, and makes it again."""
        self.ready = False

    def _deploy(self, runtime: HandleRuntime) -> None:
        if is_local(runtime):
            deploy(runtime, self._prepared, self.app)
            return
        session = sessions.current()
        nodes = session.run(session.client.nodes()).nodes
        most = most_workers(self._needs.resources, [node for node in nodes if node.alive])
        deploy(runtime, with_limit(self._prepared, most), self.app)
        log.info("tasks run in %s: at most %d at a time", self.app, most, extra={"action": "pool_deployed"})
        _sweep(session)


def _serves(route: DeploymentRoute) -> bool:
    return route.availability not in (Availability.DELETING, Availability.FAILED)


def with_limit(prepared: Prepared, most: int) -> Prepared:
    options = replace(
        prepared.spec.options,
        max_ongoing_requests=1,
        graceful_shutdown_timeout_s=LONGEST_S,
        autoscaling=AutoscalingOptions(
            min_replicas=0,
            max_replicas=most,
            initial_replicas=1,
            target_ongoing_requests=1.0,
            metrics_interval_s=1.0,
            look_back_period_s=LOOK_BACK_S,
            upscale_delay_s=0.0,
            downscale_delay_s=IDLE_S,
        ),
    )
    return replace(prepared, spec=replace(prepared.spec, options=options))


def most_workers(asked: Resources, nodes: list[NodeOverview]) -> int:
    """How many fit into the cluster when nothing else runs; at least one, which then waits for its node.

    >>> node = NodeOverview("a", "", True, "schedulable", 4000, 8 << 30)
    >>> most_workers(Resources(milli_cpu=1000), [node]), most_workers(Resources(milli_cpu=3000), [node, node])
    (4, 2)
    >>> most_workers(Resources(milli_cpu=0), [node]), most_workers(Resources(1000, milli_gpu=500), [node])
    (16, 1)
    """
    return max(1, min(MOST_WORKERS, sum(_on_node(asked, node) for node in nodes)))


def _on_node(asked: Resources, node: NodeOverview) -> int:
    fits = [node.milli_cpu * WITHOUT_CPU // 1000]
    if asked.milli_cpu:
        fits = [node.milli_cpu // asked.milli_cpu]
    if asked.memory_bytes:
        fits.append(node.memory_bytes // asked.memory_bytes)
    if asked.milli_gpu > 1000:
        fits.append(len(node.gpus) * 1000 // asked.milli_gpu)
    elif asked.milli_gpu:
        fits.append(len(node.gpus) * (1000 // asked.milli_gpu))
    return min(fits)


def _sweep(session: Session) -> None:
    """One that is used at that very moment is made again by its caller: a call whose pool is gone has not begun."""
    for name in stale(session.run(session.client.status()).applications):
        session.run(session.client.delete(name, uuid.uuid4().hex))


def stale(applications: Mapping[str, ApplicationStatusOverview]) -> list[str]:
    """The oldest pools without a worker, beyond those that are kept."""
    idle = [
        (one.last_deployed_time_s, name)
        for name, one in applications.items()
        if name.startswith(APP_PREFIX) and not any(any(d.replica_states.values()) for d in one.deployments.values())
    ]
    return [name for _, name in sorted(idle)[:-KEPT_POOLS]]


# --- the pools of this process ------------------------------------------------------------------------------------

_pools: weakref.WeakKeyDictionary[HandleRuntime, dict[str, Pool]] = weakref.WeakKeyDictionary()
"""By the cluster they are in."""


def pool_for(runtime: HandleRuntime, needs: Needs) -> Pool:
    """*Errors*: ConfigError when the program's code is too large to travel."""
    pools = _pools.setdefault(runtime, {})
    made = Pool(needs)
    return pools.setdefault(made.app, made)
