"""Find applications and deployments by name in this process's routes; from any thread but the runtime's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from serve_rt.handle.runtime import HandleRuntime, RouteSource, current_runtime
from serve_rt.model.ids import DeploymentKey
from serve_rt.model.routes import RouteTable

T = TypeVar("T")
PATIENCE_S = 1.0
"""A name may have been deployed a moment ago, by somebody else."""
_OPEN_TIMEOUT_S = 15.0


def ingress_of(app: str) -> str | None:
    """The name of the application's ingress deployment; None when there is no such application.

    *Errors*: NoClusterError.
    """

    def look(table: RouteTable) -> str | None:
        return next((one.ingress for one in table.apps if one.name == app), None)

    return _look_up(current_runtime(), look)


def exists(key: DeploymentKey) -> bool:
    """*Errors*: NoClusterError."""

    def look(table: RouteTable) -> bool | None:
        return True if any(route.key == key for route in table.deployments) else None

    return bool(_look_up(current_runtime(), look))


def _look_up(runtime: HandleRuntime, look: Callable[[RouteTable], T | None]) -> T | None:
    found = asyncio.run_coroutine_threadsafe(_wait_for(runtime, look), runtime.loop)
    return found.result(_OPEN_TIMEOUT_S)


async def _wait_for(runtime: HandleRuntime, look: Callable[[RouteTable], T | None]) -> T | None:
    routes = await runtime.routes()
    try:
        async with asyncio.timeout(PATIENCE_S):
            while (found := _look_in(routes, look)) is None:
                await routes.wait_for_change()
            return found
    except TimeoutError:
        return None


def _look_in(routes: RouteSource, look: Callable[[RouteTable], T | None]) -> T | None:
    return look(routes.table) if routes.table is not None else None
