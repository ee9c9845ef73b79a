"""Ray Serve's architecture and API without Ray: `import serve_rt as serve`.

A lazy face: a name is loaded when it is first used, so that the runtime's own processes pay only for what they need.
Nothing inside the package imports from here.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serve_rt import metrics
    from serve_rt.api.deployment import Application, Deployment, deployment
    from serve_rt.api.ingress import ingress
    from serve_rt.api.replica_context import (
        ReplicaContext,
        get_deployment_actor,
        get_deployment_actor_context,
        get_replica_context,
    )
    from serve_rt.api.request_context import cancelled, get_multiplexed_model_id, get_trace_context
    from serve_rt.api.run import (
        _run,
        _run_many,
        delete,
        get_app_handle,
        get_deployment_handle,
        rollback,
        run,
        run_many,
        shutdown,
        shutdown_async,
        start,
        status,
    )
    from serve_rt.api.targets import RunTarget
    from serve_rt.batching.decorator import batch
    from serve_rt.config.accepted import ControllerOptions, TracingConfig
    from serve_rt.config.options import HTTPOptions
    from serve_rt.multiplex.decorator import multiplexed
    from serve_rt.work.actor import actor
    from serve_rt.work.lives import get_actor, kill
    from serve_rt.work.ref import cancel, get, wait
    from serve_rt.work.task import task

__all__ = [
    "Application",
    "ControllerOptions",
    "Deployment",
    "HTTPOptions",
    "ReplicaContext",
    "RunTarget",
    "TracingConfig",
    "_run",
    "_run_many",
    "actor",
    "batch",
    "cancel",
    "cancelled",
    "delete",
    "deployment",
    "get",
    "get_actor",
    "get_app_handle",
    "get_deployment_actor",
    "get_deployment_actor_context",
    "get_deployment_handle",
    "get_multiplexed_model_id",
    "get_replica_context",
    "get_trace_context",
    "ingress",
    "kill",
    "metrics",
    "multiplexed",
    "rollback",
    "run",
    "run_many",
    "shutdown",
    "shutdown_async",
    "start",
    "status",
    "task",
    "wait",
]

_HOMES = {
    "Application": "api.deployment",
    "Deployment": "api.deployment",
    "deployment": "api.deployment",
    "ReplicaContext": "api.replica_context",
    "get_deployment_actor": "api.replica_context",
    "get_deployment_actor_context": "api.replica_context",
    "get_replica_context": "api.replica_context",
    "cancelled": "api.request_context",
    "get_multiplexed_model_id": "api.request_context",
    "get_trace_context": "api.request_context",
    "ingress": "api.ingress",
    "RunTarget": "api.targets",
    "batch": "batching.decorator",
    "multiplexed": "multiplex.decorator",
    "HTTPOptions": "config.options",
    "ControllerOptions": "config.accepted",
    "TracingConfig": "config.accepted",
    "actor": "work.actor",
    "get_actor": "work.lives",
    "kill": "work.lives",
    "cancel": "work.ref",
    "get": "work.ref",
    "task": "work.task",
    "wait": "work.ref",
}
_MODULES = frozenset({"metrics"})
"""Of the names above, those that are modules."""


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in __all__:
        instead = import_module("serve_rt.ray_names").instead_of(name)
        raise AttributeError(f"module 'serve_rt' has no attribute {name!r}{instead}")

    if name in _MODULES:
        return import_module(f"serve_rt.{name}")
    value = getattr(import_module(f"serve_rt.{_HOMES.get(name, 'api.run')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Absent:
    """The last to be asked for a submodule: for one that Ray has and we have not, it says what to do instead."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> None:
        if name.startswith("serve_rt."):
            from serve_rt.ray_names import refuse_module

            refuse_module(name)


sys.meta_path.append(_Absent)
