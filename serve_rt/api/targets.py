"""What is to be run: applications with their names and prefixes, and what is refused of them before anything starts.

Used by serve_rt.api.run; whether another application of the cluster has the prefix is the leader's to say.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from serve_rt.api.deployment import Application, Deployment
from serve_rt.api.options import check_route_prefix
from serve_rt.config.options import AppLimits, AutoscalingPolicy, LoggingConfig
from serve_rt.errors import ServeException


@dataclass(frozen=True)
class RunTarget:
    """One application of `run_many`. The last three are ours, not Ray's: see `serve_rt.config.options.AppLimits`."""

    target: Application
    name: str = "default"
    route_prefix: str | None = "/"
    logging_config: LoggingConfig | dict[str, Any] | None = None
    external_scaler_enabled: bool = False
    autoscaling_policy: AutoscalingPolicy | Mapping[str, Any] | None = None
    """Ours in Python (Ray has it in YAML only): decides for all deployments of the application that scale."""
    request_timeout_s: float | None = None
    queue_timeout_s: float | None = None
    max_body_bytes: int | None = None

    def limits(self) -> AppLimits:
        """*Errors*: TypeError, ValueError naming what is wrong."""
        return AppLimits(self.request_timeout_s, self.queue_timeout_s, self.max_body_bytes)


def check_target(one: RunTarget) -> None:
    """*Errors*: ServeException, TypeError, ValueError in Ray's words."""
    if not isinstance(one.name, str) or not one.name:
        raise ServeException("Application name must a non-empty string.")
    if "#" in one.name or "/" in one.name:
        raise ValueError(f"Application name {one.name!r} must not contain '#' or '/'.")
    if not isinstance(one.target, Application):
        hint = f" {one.target} was not bound: pass {one.target.name}.bind(...)." if _is_deployment(one.target) else ""
        raise TypeError(f"`serve.run` expects an `Application` returned by `Deployment.bind()`.{hint}")
    if one.route_prefix is not None:
        check_route_prefix(one.route_prefix)
    one.limits()


def prefix_of(application: Application, asked: str | None = "/") -> str | None:
    """The route prefix of an application; where the program does not ask for one, its ingress's own, as in Ray 2.6."""
    if asked != "/":
        return asked
    own: str | None = application.deployment.given.get("route_prefix", "/")
    return own


def _is_deployment(target: Any) -> TypeGuard[Deployment]:
    return isinstance(target, Deployment)


def check_apart(targets: Sequence[RunTarget]) -> None:
    """*Errors*: ServeException for two of one name or one prefix."""
    names: set[str] = set()
    owners: dict[str, str] = {}
    for one in targets:
        if one.name in names:
            raise ServeException(f"Application name {one.name!r} is given twice: each application needs its own.")
        names.add(one.name)
        if one.route_prefix is None:
            continue
        owner = owners.setdefault(one.route_prefix, one.name)
        if owner != one.name:
            raise ServeException(
                f"Prefix {one.route_prefix} is being used by application {owner!r}: give {one.name!r} another "
                "route_prefix, or None."
            )


_FORCE_LOCAL = ("SERVE_FORCE_LOCAL_TESTING_MODE", "RAY_SERVE_FORCE_LOCAL_TESTING_MODE")


def is_forced_local() -> bool:
    """Whether the environment asks for local testing mode."""
    return any(os.environ.get(name) == "1" for name in _FORCE_LOCAL)
