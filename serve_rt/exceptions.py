"""The errors a program may meet, under Ray's names (`from serve_rt.exceptions import BackPressureError`)."""

from __future__ import annotations

from serve_rt.errors import (
    ActorDiedError,
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
    WorkerCrashedError,
    gRPCStatusError,
)
from serve_rt.handle.serialization import RemoteUserError

RayServeException = ServeException

__all__ = [
    "ActorDiedError",
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
    "WorkerCrashedError",
    "gRPCStatusError",
]
