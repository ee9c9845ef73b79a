"""Calls to deployments from drivers and from other deployments.

The names are loaded at first use: a replica that never uses a handle never pays for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serve_rt.handle.broadcast import DeploymentBroadcastResponse
    from serve_rt.handle.choosing import ReplicaSelection
    from serve_rt.handle.handle import DeploymentHandle
    from serve_rt.handle.response import DeploymentResponse
    from serve_rt.handle.stream import DeploymentResponseGenerator

__all__ = [
    "DeploymentBroadcastResponse",
    "DeploymentHandle",
    "DeploymentResponse",
    "DeploymentResponseGenerator",
    "ReplicaSelection",
]

_HOMES = {
    "DeploymentBroadcastResponse": "broadcast",
    "DeploymentHandle": "handle",
    "DeploymentResponse": "response",
    "DeploymentResponseGenerator": "stream",
    "ReplicaSelection": "choosing",
}


_OF_RAY_2_6 = ("RayServeHandle", "RayServeSyncHandle", "RayServeDeploymentHandle")


def __getattr__(name: str) -> Any:
    if name in _OF_RAY_2_6:
        import warnings

        warnings.warn(f"`{name}` is deprecated, use `DeploymentHandle` instead", DeprecationWarning, 2)
        name = "DeploymentHandle"
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
