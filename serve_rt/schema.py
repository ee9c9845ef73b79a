"""What `serve.status()` returns and other schemas, under Ray's names (`from serve_rt.schema import ServeStatus`)."""

from __future__ import annotations

from typing import Any

from serve_rt.api.replica_context import ReplicaRank
from serve_rt.config.accepted import ControllerOptions, RequestRouterConfig, TracingConfig
from serve_rt.config.options import (
    AutoscalingConfig,
    AutoscalingPolicy,
    BackpressureConfig,
    LoggingConfig,
    ProxyLocation,
)
from serve_rt.model.status import (
    ApplicationStatus,
    ApplicationStatusOverview,
    DeploymentStatus,
    DeploymentStatusOverview,
    DeploymentStatusTrigger,
    ProxyStatus,
    ServeStatus,
)

__all__ = [
    "ApplicationStatus",
    "ApplicationStatusOverview",
    "AutoscalingConfig",
    "AutoscalingPolicy",
    "BackpressureConfig",
    "ControllerOptions",
    "DeploymentStatus",
    "DeploymentStatusOverview",
    "DeploymentStatusTrigger",
    "LoggingConfig",
    "ProxyLocation",
    "ProxyStatus",
    "ReplicaRank",
    "RequestRouterConfig",
    "ServeStatus",
    "TracingConfig",
]


def __getattr__(name: str) -> Any:
    from serve_rt.ray_names import refuse_name

    refuse_name(__name__, name)
