"""What `@serve.deployment` takes, checked one by one with Ray's errors, and turned into the spec's DeploymentOptions.

A Deployment keeps what the user gave (`Given`); `resolve` makes values of it when the application is built, so that
`.options()` can change one thing without fixing the others.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from serve_rt.api.actor_options import checked_actor_options, labels_of, resources_of
from serve_rt.config.accepted import RequestRouterConfig
from serve_rt.config.options import (
    AutoscalingConfig,
    BackpressureConfig,
    GuardConfig,
    LoggingConfig,
    UnknownOptionError,
    checked,
    refuse_unknown,
)
from serve_rt.errors import ConfigError
from serve_rt.model.spec import DEFAULT_MAX_ONGOING_REQUESTS, DeploymentOptions, GuardOptions, LoggingOptions, Placement

Given = Mapping[str, Any]
"""Options by today's names, as the user gave them; Any: each has a type of its own, checked here."""

RENAMED = {"max_concurrent_queries": "max_ongoing_requests"}
"""Names of Ray 2.6."""
AUTO_MAX_REPLICAS = AutoscalingConfig.default().max_replicas
NOT_SUPPORTED = {
    "placement_group_bundles": "a replica is one process on one node: use ray_actor_options for its resources",
    "placement_group_strategy": "replicas are spread over nodes; `max_replicas_per_node` limits how many share one",
    "placement_group_bundle_label_selector": "use ray_actor_options={'label_selector': {...}}",
    "gang_scheduling_config": "start the members as separate deployments and pass handles",
    "deployment_actors": "make it a deployment of its own and pass its handle",
    "is_driver_deployment": "give num_replicas and max_replicas_per_node=1",
    "init_args": "give them to .bind(...)",
    "init_kwargs": "give them to .bind(...)",
}


def clean(what: str, given: Given) -> dict[str, Any]:
    """`given` by today's names and checked one by one.

    *Errors*: UnknownOptionError, or the TypeError or ValueError that Ray raises.
    """
    options: dict[str, Any] = {}
    for name, value in given.items():
        if name in NOT_SUPPORTED:
            if value is None:
                continue
            raise UnknownOptionError(f"`{name}` is not supported by {what}: {NOT_SUPPORTED[name]}.")
        if name in RENAMED:
            if RENAMED[name] in given:
                raise ConfigError(f"`{name}` is the old name of `{RENAMED[name]}`: give one of them.")
            warnings.warn(f"`{name}` is deprecated, use `{RENAMED[name]}` instead", DeprecationWarning, 4)
        options[RENAMED.get(name, name)] = value
    refuse_unknown(what, options, CHECKS)
    scaled = options.get("autoscaling_config")
    if options.get("num_replicas") == "auto" and isinstance(scaled, Mapping):
        options["autoscaling_config"] = {"max_replicas": AUTO_MAX_REPLICAS, **scaled}
    return {name: CHECKS[name](name, value) for name, value in options.items()}


def check_together(options: Given) -> None:
    """*Errors*: ValueError for options that contradict each other."""
    if isinstance(options.get("num_replicas"), int) and options.get("autoscaling_config") is not None:
        raise ValueError("Manually setting num_replicas is not allowed when autoscaling_config is provided.")


def resolve(options: Given) -> DeploymentOptions:
    """The values a replica and the controller act on."""
    backpressure: BackpressureConfig = options.get("backpressure_config") or BackpressureConfig()
    router: RequestRouterConfig = options.get("request_router_config") or RequestRouterConfig()
    actor_options = options.get("ray_actor_options") or {}
    autoscaling = _autoscaling(options)
    replicas = options.get("num_replicas")
    fixed = replicas if isinstance(replicas, int) else 1
    values: dict[str, Any] = {name: options[name] for name in _PASSED_ON if options.get(name) is not None}
    if "rolling_update_percentage" in options and "max_unavailable" not in options:
        values["max_unavailable"] = max(1, int(options["rolling_update_percentage"] * fixed))
    guard: GuardConfig | None = options.get("guard_config")
    if "spread_over" in options:
        values["spread_label"], values["spread_min_domains"], values["spread_hard"] = options["spread_over"]
    user_config = options.get("user_config")
    return DeploymentOptions(
        num_replicas=fixed,
        autoscaling=autoscaling.options() if autoscaling is not None else None,
        max_ongoing_requests=options.get("max_ongoing_requests", DEFAULT_MAX_ONGOING_REQUESTS),
        backpressure_status=backpressure.status_code,
        backpressure_retry_after_s=backpressure.retry_after_s,
        guard=GuardOptions(guard.error_rate, guard.latency_factor, guard.window_s) if guard is not None else None,
        resources=resources_of(actor_options),
        env_vars=dict((actor_options.get("runtime_env") or {}).get("env_vars") or {}),
        labels=labels_of(actor_options),
        logging=logging_of(options.get("logging_config")),
        routing_stats_period_s=router.request_routing_stats_period_s,
        routing_stats_timeout_s=router.request_routing_stats_timeout_s,
        failures=router.failures(),
        user_config_json=None if user_config is None else json.dumps(user_config, sort_keys=True),
        **values,
    )


def logging_of(config: LoggingConfig | None) -> LoggingOptions:
    config = config or LoggingConfig()
    return LoggingOptions(
        encoding=config.encoding,
        level=str(config.log_level),
        logs_dir=None if config.logs_dir is None else str(config.logs_dir),
        access_log=config.enable_access_log,
        standard_attributes=tuple(config.additional_log_standard_attrs),
    )


def _autoscaling(options: Given) -> AutoscalingConfig | None:
    given: AutoscalingConfig | None = options.get("autoscaling_config")
    if options.get("num_replicas") == "auto" and given is None:
        return AutoscalingConfig.default()
    return given


# --- one check for each option ------------------------------------------------------------------------------------

Check = Callable[[str, Any], Any]


def _name(_: str, value: Any) -> Any:
    if not isinstance(value, str):
        raise TypeError(f"Deployment name must be a string, got {type(value).__name__}.")
    if not value or "#" in value or "/" in value:
        raise ValueError(f"Deployment name {value!r} must not be empty and must not contain '#' or '/'.")
    return value


def _version(_: str, value: Any) -> Any:
    if value is not None:
        raise ValueError("`version` was removed: the version is computed from code, arguments and resources.")
    return None


def _route_prefix(name: str, value: Any) -> Any:
    """Of Ray 2.6; serve_rt.api.targets gives the ingress's to the application."""
    warnings.warn(f"`{name}` of a deployment is deprecated, use serve.run(app, {name}=...)", DeprecationWarning, 6)
    if value is not None:
        check_route_prefix(value)
    return value


def check_route_prefix(prefix: Any) -> None:
    """*Errors*: ValueError in Ray's words."""
    if not isinstance(prefix, str) or not prefix.startswith("/"):
        raise ValueError(f"Invalid route_prefix '{prefix}', must start with '/'.")
    if prefix != "/" and prefix.endswith("/"):
        raise ValueError(f"Invalid route_prefix '{prefix}', may not end with a trailing '/'.")
    if "{" in prefix or "}" in prefix:
        raise ValueError(f"Invalid route_prefix '{prefix}', may not contain wildcards.")


def _num_replicas(_: str, value: Any) -> Any:
    if value is None or value == "auto":
        return value
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f'num_replicas must be an integer or "auto", got {value!r}.')
    if value <= 0:
        raise ValueError(f"num_replicas is expected to larger than 0, got {value}.")
    return value


def _user_config(_: str, value: Any) -> Any:
    try:
        json.dumps(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"user_config must be JSON-serializable: {error}.") from error
    return value


def _max_ongoing_requests(name: str, value: Any) -> Any:
    if value is None:
        raise ValueError("`max_ongoing_requests` must be non-null, got None.")
    return _integer(1)(name, value)


def _max_queued_requests(name: str, value: Any) -> Any:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"max_queued_requests must be an integer, got {value!r}.")
    if value < 1 and value != -1:
        raise ValueError(f"max_queued_requests must be -1 (no limit) or positive, got {value}.")
    return value


def _replicas_per_node(name: str, value: Any) -> Any:
    if value is None:
        return None
    _integer(None)(name, value)
    if not 1 <= value <= 100:
        raise ValueError(f"max_replicas_per_node must be from 1 to 100, got {value}.")
    return value


def _percentage(name: str, value: Any) -> Any:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {value!r}.")
    if not 0 < value <= 1:
        raise ValueError(f"{name} must be greater than 0 and at most 1, got {value}.")
    return value


def _surge(name: str, value: Any) -> Any:
    _integer(None)(name, value)
    if not 0 <= value <= 100:
        raise ValueError(f"{name} must be from 0 to 100, got {value}.")
    return value


def _placement(name: str, value: Any) -> Any:
    if isinstance(value, str) and value.upper() in Placement.__members__:
        return Placement[value.upper()]
    raise ValueError(f"{name} must be one of {', '.join(Placement.__members__)}, got {value!r}.")


_CROWD, _WAIT = "ScheduleAnyway", "DoNotSchedule"
_SPREAD_KEYS = frozenset({"label", "min_domains", "when_unsatisfiable", "whenUnsatisfiable"})


def _spread_over(name: str, value: Any) -> Any:
    """A label, or {"label": ..., "min_domains": ..., "when_unsatisfiable": ...}; the last as Kubernetes has it."""
    given = {"label": value} if isinstance(value, str) else value
    if not isinstance(given, Mapping) or not set(given) <= _SPREAD_KEYS or not given.get("label"):
        raise ValueError(
            f"{name} must be a node label or {{'label': ..., 'min_domains': ..., 'when_unsatisfiable': ...}}, "
            f"got {value!r}."
        )
    if not isinstance(given["label"], str):
        raise TypeError(f"{name}: label must be a string, got {given['label']!r}.")
    otherwise = given.get("when_unsatisfiable", given.get("whenUnsatisfiable", _CROWD))
    if otherwise not in (_CROWD, _WAIT):
        raise ValueError(f"{name}: when_unsatisfiable must be {_CROWD!r} or {_WAIT!r}, got {otherwise!r}.")
    return given["label"], _integer(1)(f"{name}: min_domains", given.get("min_domains", 1)), otherwise == _WAIT


def _flag(name: str, value: Any) -> Any:
    if value is not None and not isinstance(value, bool):
        raise TypeError(f"{name} must be True, False or None, got {value!r}.")
    return value


def _integer(least: int | None) -> Check:
    def check(name: str, value: Any) -> Any:
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{name} must be an integer, got {value!r}.")
        if least is not None and value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}.")
        return value

    return check


def _seconds(*, positive: bool) -> Check:
    def check(name: str, value: Any) -> Any:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise TypeError(f"{name} must be a number of seconds, got {value!r}.")
        if value < 0 or (positive and value == 0):
            raise ValueError(f"{name} must be {'greater than' if positive else 'at least'} 0, got {value}.")
        return float(value)

    return check


def _config(kind: type[Any]) -> Check:
    return lambda name, value: None if value is None else checked(kind, value, name)


CHECKS: Mapping[str, Check] = {
    "name": _name,
    "version": _version,
    "route_prefix": _route_prefix,
    "num_replicas": _num_replicas,
    "ray_actor_options": checked_actor_options,
    "max_replicas_per_node": _replicas_per_node,
    "user_config": _user_config,
    "max_ongoing_requests": _max_ongoing_requests,
    "max_queued_requests": _max_queued_requests,
    "backpressure_config": _config(BackpressureConfig),
    "guard_config": _config(GuardConfig),
    "autoscaling_config": _config(AutoscalingConfig),
    "graceful_shutdown_wait_loop_s": _seconds(positive=False),
    "graceful_shutdown_timeout_s": _seconds(positive=False),
    "health_check_period_s": _seconds(positive=True),
    "health_check_timeout_s": _seconds(positive=True),
    "health_check_failure_threshold": _integer(1),
    "logging_config": _config(LoggingConfig),
    "request_router_config": _config(RequestRouterConfig),
    "max_constructor_retry_count": _integer(1),
    "rolling_update_percentage": _percentage,
    "placement": _placement,
    "spread_over": _spread_over,
    "max_surge_percent": _surge,
    "max_unavailable": _integer(1),
    "retry_safe": _flag,
    "startup_timeout_s": _seconds(positive=True),
    "stuck_timeout_s": _seconds(positive=True),
    "progress_deadline_s": _seconds(positive=True),
}
_PASSED_ON = (
    "max_queued_requests",
    "max_replicas_per_node",
    "placement",
    "graceful_shutdown_wait_loop_s",
    "graceful_shutdown_timeout_s",
    "health_check_period_s",
    "health_check_timeout_s",
    "health_check_failure_threshold",
    "max_constructor_retry_count",
    "max_surge_percent",
    "max_unavailable",
    "retry_safe",
    "startup_timeout_s",
    "stuck_timeout_s",
    "progress_deadline_s",
)

__all__ = ["CHECKS", "NOT_SUPPORTED", "RENAMED", "Given", "check_together", "clean", "resolve"]
