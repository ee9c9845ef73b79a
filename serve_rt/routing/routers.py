"""All routers of a process: one per deployment, made on demand, kept current from the route table."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from serve_rt.aio import TaskOwner
from serve_rt.credentials import ClusterToken
from serve_rt.model.ids import AppName, DeploymentKey
from serve_rt.model.routes import AppRoute, DeploymentRoute, RouteTable
from serve_rt.model.tally import Tally
from serve_rt.routing.link import COUNTERS
from serve_rt.routing.router import Router
from serve_rt.routing.waiting import HeldBodies


class Routers:
    """*Resources*: the creator awaits `close`."""

    def __init__(self, cluster: str, token: ClusterToken, client_name: str) -> None:
        self.table: RouteTable | None = None
        self.on_starved: Callable[[DeploymentKey], None] | None = None
        """Told when requests wait and the deployment has no replica."""
        self.on_errors: Callable[[], None] | None = None
        """Told when requests of a guarded deployment fail."""
        self._cluster, self._token, self._client = cluster, token, client_name
        self._tasks = TaskOwner("routers")
        self._held = HeldBodies()
        self._routers: dict[DeploymentKey, Router] = {}
        self._apps: dict[AppName, AppRoute] = {}
        self._routes: dict[DeploymentKey, DeploymentRoute] = {}
        self._changed = asyncio.Event()

    def update(self, table: RouteTable) -> None:
        self.table = table
        apps = {app.name: app for app in table.apps}
        for key, router in self._routers.items():
            old, new = self._apps.get(key.app), apps.get(key.app)
            if old is not None and new is not None and old != new:
                router.retime(old, new)
        self._apps = apps
        self._routes = {route.key: route for route in table.deployments}
        for key, router in self._routers.items():
            route = self._routes.get(key)
            if route != router.route:
                router.update(route)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def router(self, key: DeploymentKey) -> Router:
        """The deployment's router; one that is not in the table yet holds its requests."""
        router = self._routers.get(key)
        if router is None:
            router = Router(key, self._cluster, self._token, self._client, self._tasks, self._held)
            router.on_starved = self._starved
            router.on_errors = self._errors
            self._routers[key] = router
            if (route := self._routes.get(key)) is not None:
                router.update(route)
        return router

    async def changed(self) -> None:
        """Return when another table has come."""
        await self._changed.wait()

    def counters(self) -> dict[str, int]:
        """Parts that moved on all streams since the start, and what stands now."""
        totals = dict.fromkeys(COUNTERS, 0)
        for router in self._routers.values():
            for name, count in router.counters().items():
                totals[name] += count
        totals["waiting"] = sum(router.waiting for router in self._routers.values())
        totals["reserved"] = sum(router.reserved for router in self._routers.values())
        return totals

    def demand(self) -> dict[DeploymentKey, tuple[int, int]]:
        """Requests that wait for a slot and requests on replicas, of each deployment that has any."""
        counts = {key: (router.waiting, router.reserved) for key, router in self._routers.items()}
        return {key: count for key, count in counts.items() if any(count)}

    def ejected(self) -> dict[tuple[DeploymentKey, str], int]:
        """Replicas out of rotation, of each deployment that has any, by reason."""
        return {
            (key, reason): count
            for key, router in self._routers.items()
            for reason, count in router.rotation.ejected().items()
        }

    def tallies(self) -> dict[DeploymentKey, dict[str, Tally]]:
        """How requests go, of each guarded deployment, by version."""
        return {key: router.tallies.by_version() for key, router in self._routers.items() if router.tallies is not None}

    def _errors(self) -> None:
        if self.on_errors is not None:
            self.on_errors()

    def _starved(self, key: DeploymentKey) -> None:
        if self.on_starved is not None:
            self.on_starved(key)

    async def close(self) -> None:
        for router in self._routers.values():
            router.close()
        await self._tasks.close()

    def __repr__(self) -> str:
        return f"<Routers [{', '.join(map(repr, self._routers.values()))}]>"
