"""Which application a path belongs to: longest prefix, by whole segments."""

from __future__ import annotations

from dataclasses import dataclass

from serve_rt.model.ids import DeploymentKey
from serve_rt.model.routes import AppRoute, DeploymentRoute, RouteTable


@dataclass(frozen=True, slots=True)
class Target:
    app: AppRoute
    prefix: str
    root_path: str
    """What the application sees as the scope's root_path."""
    key: DeploymentKey
    deployment: DeploymentRoute | None


class Routes:
    """An immutable view of a RouteTable.

    >>> Routes(None).match("/x") is None
    True
    """

    def __init__(self, table: RouteTable | None, root_path: str = "") -> None:
        apps = table.apps if table is not None else ()
        deployments = {route.key: route for route in table.deployments} if table is not None else {}
        targets = [
            _target(app, deployments.get(DeploymentKey(app.name, app.ingress)), root_path)
            for app in apps
            if app.route_prefix is not None
        ]
        targets.sort(key=lambda target: len(target.prefix), reverse=True)
        self.targets = tuple(targets)
        self._tests = tuple((target.prefix, f"{target.prefix}/", target) for target in targets if target.prefix != "/")
        self._root = next((target for target in targets if target.prefix == "/"), None)

    def match(self, path: str) -> Target | None:
        """`/a` takes `/a` and `/a/x`, not `/ab`; `/` takes what is left."""
        for prefix, below, target in self._tests:
            if path == prefix or path.startswith(below):
                return target
        return self._root

    def by_prefix(self) -> dict[str, str]:
        return {target.prefix: target.app.name for target in self.targets}


def _target(app: AppRoute, deployment: DeploymentRoute | None, root_path: str) -> Target:
    prefix = (app.route_prefix or "/").rstrip("/") or "/"
    below = root_path.rstrip("/") + (prefix if prefix != "/" else "")
    return Target(app, prefix, below, DeploymentKey(app.name, app.ingress), deployment)
