"""From nested `.bind()` calls to a flat list of deployments: each Application once, under a name of its own.

Pure. Applications among the arguments, also inside lists, tuples, sets and dicts, are replaced by DeploymentHandles;
one that is bound twice is one deployment. Next stop: serve_rt.api.build.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from serve_rt.api.deployment import Application, Deployment
from serve_rt.handle import DeploymentHandle

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BoundDeployment:
    """A deployment with its final name and arguments without applications."""

    name: str
    deployment: Deployment
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True)
class Graph:
    ingress: str
    deployments: tuple[BoundDeployment, ...]
    """Those that are called before those that call them."""


def flatten(application: Application, app_name: str) -> Graph:
    walk = _Walk(app_name)
    ingress = walk.visit(application)
    return Graph(ingress.deployment_name, tuple(walk.found))


class _Walk:
    def __init__(self, app_name: str) -> None:
        self.found: list[BoundDeployment] = []
        self._app_name = app_name
        self._handles: dict[int, DeploymentHandle[Any]] = {}
        """By id of the Application; the graph keeps them alive meanwhile."""
        self._names: set[str] = set()

    def visit(self, application: Application) -> DeploymentHandle[Any]:
        known = self._handles.get(id(application))
        if known is not None:
            return known
        deployment = application.deployment
        args = tuple(self._replaced(arg) for arg in deployment.init_args)
        kwargs = {name: self._replaced(arg) for name, arg in deployment.init_kwargs.items()}
        name = self._free_name(deployment.name)
        self.found.append(BoundDeployment(name, deployment, args, kwargs))
        handle: DeploymentHandle[Any] = DeploymentHandle(name, self._app_name)
        self._handles[id(application)] = handle
        return handle

    def _replaced(self, value: Any) -> Any:
        if isinstance(value, Application):
            return self.visit(value)
        if isinstance(value, Deployment):
            raise TypeError(
                f"{value} was passed to .bind() of another deployment: pass {value.name}.bind(...) instead."
            )
        if type(value) in (list, tuple, set, frozenset):
            return type(value)([self._replaced(one) for one in value])
        if isinstance(value, tuple) and hasattr(value, "_fields"):  # a named tuple
            return type(value)(*(self._replaced(one) for one in value))
        if type(value) is dict:
            return {self._replaced(key): self._replaced(one) for key, one in value.items()}
        return value

    def _free_name(self, wanted: str) -> str:
        name, suffix = wanted, 0
        while name in self._names:
            suffix += 1
            name = f"{wanted}_{suffix}"
        if suffix:
            log.warning(
                "two deployments are named %r: one of them becomes %r; .options(name=...) sets it", wanted, name
            )
        self._names.add(name)
        return name
