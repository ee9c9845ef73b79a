"""What `serve.status()` returns, under Ray's names (`from serve_rt.schema import ServeStatus`)."""

from __future__ import annotations

from serve_rt.config.options import LoggingConfig
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
    "DeploymentStatus",
    "DeploymentStatusOverview",
    "DeploymentStatusTrigger",
    "LoggingConfig",
    "ProxyStatus",
    "ServeStatus",
]
