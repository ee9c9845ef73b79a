"""The errors a program may meet, under Ray's names (`from serve_rt.exceptions import BackPressureError`)."""

from __future__ import annotations

from typing import Any

from serve_rt.errors import (
    BackPressureError,
    ConfigError,
    DeadlineExceededError,
    DeploymentUnavailableError,
    NoClusterError,
    QueueTimeoutError,
    ReplicaDiedError,
    ReplicaUnavailableError,
    RequestCancelledError,
    RequestError,
    ServeException,
    gRPCStatusError,
)
from serve_rt.handle.serialization import RemoteUserError

RayServeException = ServeException

__all__ = [
    "BackPressureError",
    "ConfigError",
    "DeadlineExceededError",
    "DeploymentUnavailableError",
    "NoClusterError",
    "QueueTimeoutError",
    "RayServeException",
    "RemoteUserError",
    "ReplicaDiedError",
    "ReplicaUnavailableError",
    "RequestCancelledError",
    "RequestError",
    "ServeException",
    "gRPCStatusError",
]


def __getattr__(name: str) -> Any:
    from serve_rt.ray_names import refuse_name

    refuse_name(__name__, name)
