"""Settings and places: read once at the edge of a process and passed down.

Ray's users import configuration classes from here (`from serve_rt.config import AutoscalingConfig`): they are loaded at
first use, so that the runtime's own processes do not pay for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serve_rt.config.accepted import ControllerOptions, RequestRouterConfig, TracingConfig
    from serve_rt.config.autoscaling import AutoscalingContext, DeploymentID
    from serve_rt.config.options import (
        AggregationFunction,
        AutoscalingConfig,
        AutoscalingPolicy,
        BackpressureConfig,
        DeploymentMode,
        GuardConfig,
        HTTPOptions,
        LoggingConfig,
        ProxyLocation,
        gRPCOptions,
    )

__all__ = [
    "AggregationFunction",
    "AutoscalingConfig",
    "AutoscalingContext",
    "AutoscalingPolicy",
    "BackpressureConfig",
    "ControllerOptions",
    "DeploymentID",
    "DeploymentMode",
    "GuardConfig",
    "HTTPOptions",
    "LoggingConfig",
    "ProxyLocation",
    "RequestRouterConfig",
    "TracingConfig",
    "gRPCOptions",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        from serve_rt.ray_names import refuse_name

        refuse_name(__name__, name)
    from serve_rt.config import accepted, autoscaling, options

    home = next(module for module in (accepted, autoscaling, options) if hasattr(module, name))
    value = globals()[name] = getattr(home, name)
    return value
