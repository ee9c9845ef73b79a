"""Ray Serve's configuration classes, as plain values: what users import from `serve_rt.config`.

Unlike Ray's they refuse unknown keys, naming the nearest known one; renamed keys are taken with a DeprecationWarning.
"""

from __future__ import annotations

import enum
import json
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from serve_rt.config.copying import Copied, recheck
from serve_rt.config.fields import check_bool, check_integer, check_number, check_text
from serve_rt.config.naming import UnknownOptionError as UnknownOptionError
from serve_rt.config.naming import nearest as nearest
from serve_rt.config.naming import refuse_unknown as refuse_unknown
from serve_rt.model.proxies import ProxyLocation as ProxyLocation
from serve_rt.model.spec import AutoscalingOptions, PolicySpec

T = TypeVar("T")


def from_mapping(kind: type[T], given: Mapping[str, Any]) -> T:
    """A value of the dataclass `kind` from a user's dict."""
    names = [one.name for one in fields(kind)]  # type: ignore[arg-type]  # T is one of the dataclasses below
    refuse_unknown(kind.__name__, given, names)
    return kind(**given)


def checked(kind: type[T], given: T | Mapping[str, Any], option: str) -> T:
    """`given` as a `kind`: users may pass either the class or a dict.

    *Errors*: TypeError for anything else.
    """
    if isinstance(given, kind):
        recheck(given)
        return given
    if isinstance(given, Mapping):
        return from_mapping(kind, given)
    raise TypeError(f"{option} must be a {kind.__name__} or a dict, got {type(given).__name__}.")


class DeploymentMode(enum.StrEnum):
    """Ray 2.6's name for ProxyLocation."""

    NoServer = "NoServer"
    HeadOnly = "HeadOnly"
    EveryNode = "EveryNode"


class AggregationFunction(enum.StrEnum):
    """How the demand of a look-back period becomes one number."""

    MEAN = "mean"
    MAX = "max"
    MIN = "min"


@dataclass(frozen=True)
class HTTPOptions(Copied):
    """Given to the `serve.start` or `serve.run` that starts the cluster."""

    host: str | None = "127.0.0.1"
    port: int = 8000
    middlewares: tuple[Any, ...] = ()
    location: str | None = None
    num_cpus: int = 0
    root_url: str = ""
    root_path: str = ""
    request_timeout_s: float | None = None
    keep_alive_timeout_s: float = 90.0
    ssl_keyfile: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile_password: str | None = None
    ssl_ca_certs: str | None = None
    limits: Mapping[str, float] = field(default_factory=dict)
    """Ours: what clients may send; the rows are in serve_rt/proxy/README.md."""

    def __post_init__(self) -> None:
        if self.middlewares:
            raise ValueError("HTTPOptions.middlewares is not supported: add middleware to the FastAPI or ASGI app.")
        if self.num_cpus:
            raise ValueError("HTTPOptions.num_cpus must be 0: proxies are not scheduled.")
        if not isinstance(self.port, int) or isinstance(self.port, bool) or not 0 <= self.port <= 65535:
            raise ValueError(f"HTTPOptions.port must be an integer from 0 to 65535, got {self.port!r}.")
        if self.host is not None:
            check_text("HTTPOptions.host", self.host)
        if self.root_path and not self.root_path.startswith("/"):
            raise ValueError(f"HTTPOptions.root_path must start with '/', got {self.root_path!r}.")
        check_number("HTTPOptions.keep_alive_timeout_s", self.keep_alive_timeout_s, above=0)
        if self.request_timeout_s is not None:
            check_number("HTTPOptions.request_timeout_s", self.request_timeout_s)
            if self.request_timeout_s < 0:  # Ray's way to say "none"
                object.__setattr__(self, "request_timeout_s", None)
        self._check_ssl()
        if self.location is not None:
            self._check_location(self.location)

    def _check_ssl(self) -> None:
        if bool(self.ssl_certfile) != bool(self.ssl_keyfile):
            raise ValueError(
                "HTTPOptions: ssl_keyfile and ssl_certfile must be given together, got "
                f"ssl_keyfile={self.ssl_keyfile!r}, ssl_certfile={self.ssl_certfile!r}."
            )
        if self.ssl_keyfile_password:
            raise ValueError(
                "HTTPOptions.ssl_keyfile_password is not supported: give a key without a password, "
                "in a file that only this user can read."
            )
        if self.ssl_ca_certs:
            raise ValueError(
                "HTTPOptions.ssl_ca_certs is not supported: put intermediate certificates into ssl_certfile, "
                "and check client certificates in a proxy before this one."
            )

    def _check_location(self, location: str) -> None:
        warnings.warn("`http_options.location` is deprecated, use `proxy_location`", DeprecationWarning, 4)
        known = [*DeploymentMode, ProxyLocation.Disabled]
        if location not in known:
            raise ValueError(f"HTTPOptions.location must be one of {', '.join(known)}, got {location!r}.")

    def proxy_location(self) -> ProxyLocation | None:
        """What the deprecated `location` asks for."""
        if self.location is None:
            return None
        return ProxyLocation.Disabled if self.location == DeploymentMode.NoServer else ProxyLocation(self.location)


@dataclass(frozen=True)
class gRPCOptions(Copied):
    """Accepted so that programs import; there is no gRPC ingress yet."""

    port: int = 9000
    grpc_servicer_functions: tuple[str, ...] = ()
    request_timeout_s: float | None = None
    enable_reflection: bool = True


@dataclass(frozen=True)
class BackpressureConfig(Copied):
    status_code: int = 503
    retry_after_s: float | None = None

    def __post_init__(self) -> None:
        if self.status_code not in (503, 429):
            raise ValueError(f"BackpressureConfig.status_code must be 503 or 429, got {self.status_code!r}.")
        if self.retry_after_s is not None:
            check_number("BackpressureConfig.retry_after_s", self.retry_after_s, least=0)


@dataclass(frozen=True)
class AppLimits:
    """Ours, not Ray's: limits of one application, given to `serve.run`, a `RunTarget` or the configuration file. They
    are changed by deploying again, without a restart, and reach requests that wait already."""

    request_timeout_s: float | None = None
    """HTTP requests are answered with 408 when they take longer. None: as `http_options` say, else no limit."""
    queue_timeout_s: float | None = None
    """How long a request waits for a free slot before it is refused: over HTTP with 503 and Retry-After, for calls of
    handles with QueueTimeoutError (a TimeoutError and a ServeException). None: 60 s over HTTP; calls of handles wait
    for an hour (Ray lets them wait for ever)."""
    max_body_bytes: int | None = None
    """HTTP requests with longer bodies are answered with 413. None: 1 GiB."""

    def __post_init__(self) -> None:
        for name in ("request_timeout_s", "queue_timeout_s"):
            value = getattr(self, name)
            if value is not None:
                check_number(name, value, above=0)
        if self.max_body_bytes is not None:
            check_integer("max_body_bytes", self.max_body_bytes, least=1)


@dataclass(frozen=True)
class GuardConfig(Copied):
    """Ours, not Ray's: a new version starts with one replica beside the old ones; if it does worse than they, it is
    rolled back."""

    error_rate: float | None = 0.05
    latency_factor: float | None = None
    window_s: float = 10.0

    def __post_init__(self) -> None:
        if self.error_rate is not None:
            check_number("GuardConfig.error_rate", self.error_rate, least=0)
        if self.latency_factor is not None:
            check_number("GuardConfig.latency_factor", self.latency_factor, least=1)
        check_number("GuardConfig.window_s", self.window_s, least=0)


@dataclass(frozen=True)
class LoggingConfig(Copied):
    encoding: str = "TEXT"
    log_level: int | str = "INFO"
    logs_dir: str | None = None
    enable_access_log: bool = True
    additional_log_standard_attrs: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.encoding not in ("TEXT", "JSON"):
            raise ValueError(f"LoggingConfig.encoding must be TEXT or JSON, got {self.encoding!r}.")
        check_bool("LoggingConfig.enable_access_log", self.enable_access_log)
        if self.logs_dir is not None:
            check_text("LoggingConfig.logs_dir", os.fspath(self.logs_dir))
        object.__setattr__(self, "log_level", _level_name(self.log_level))
        for name in self.additional_log_standard_attrs:
            if name not in LOG_ATTRIBUTES:
                raise ValueError(
                    f"LoggingConfig.additional_log_standard_attrs: {name!r} is no attribute of a log record; known: "
                    f"{', '.join(sorted(LOG_ATTRIBUTES))}."
                )
        object.__setattr__(self, "additional_log_standard_attrs", tuple(self.additional_log_standard_attrs))


def _level_name(level: object) -> str:
    """*Errors*: ValueError, TypeError."""
    names = logging.getLevelNamesMapping()
    if isinstance(level, int) and not isinstance(level, bool):
        return logging.getLevelName(level)
    if not isinstance(level, str):
        raise TypeError(f"LoggingConfig.log_level must be a name or a number, got {level!r}.")
    if level.upper() not in names:
        known = ", ".join(sorted(names, key=lambda name: names[name]))
        raise ValueError(f"LoggingConfig.log_level {level!r} is not known; use one of {known}, or a number.")
    return level.upper()


LOG_ATTRIBUTES = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime"}


@dataclass(frozen=True)
class AutoscalingPolicy(Copied):
    """`policy_function`: `module:name`, or a function, or a class that is instantiated once with `policy_kwargs`."""

    policy_function: Any = "serve_rt.autoscaling_policy:default_autoscaling_policy"
    policy_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given = self.policy_function
        if not callable(given) and (not isinstance(given, str) or not given.replace(":", ".").strip(".").count(".")):
            raise ValueError(f"policy_function must be a callable or an import path 'module:name', got {given!r}.")
        try:
            json.dumps(dict(self.policy_kwargs))
        except (TypeError, ValueError) as error:
            raise ValueError(f"policy_kwargs must be JSON-serializable: {error}.") from error

    def spec(self) -> PolicySpec | None:
        """Without the payload of a callable; None for the usual policy."""
        given = self.policy_function
        name = given if isinstance(given, str) else f"{given.__module__}:{getattr(given, '__qualname__', 'policy')}"
        if name.replace(".", ":").rsplit(":", 1)[-1] in _USUAL_POLICIES and "autoscaling_policy" in name:
            return None
        return PolicySpec(name, json.dumps(dict(self.policy_kwargs), sort_keys=True))


_USUAL_POLICIES = ("default_autoscaling_policy", "replica_queue_length_autoscaling_policy")


@dataclass(frozen=True)
class AutoscalingConfig(Copied):
    """Ray's knobs; the last four are old names."""

    min_replicas: int = 1
    initial_replicas: int | None = None
    max_replicas: int = 1
    target_ongoing_requests: float = 2.0
    metrics_interval_s: float = 10.0
    look_back_period_s: float = 30.0
    upscaling_factor: float | None = None
    downscaling_factor: float | None = None
    upscale_delay_s: float = 30.0
    downscale_delay_s: float = 600.0
    downscale_to_zero_delay_s: float | None = None
    aggregation_function: str = "mean"
    policy: AutoscalingPolicy | Mapping[str, Any] | None = None
    target_num_ongoing_requests_per_replica: float | None = None
    smoothing_factor: float | None = None
    upscale_smoothing_factor: float | None = None
    downscale_smoothing_factor: float | None = None

    def __post_init__(self) -> None:
        for old, new in _OLD_AUTOSCALING.items():
            if getattr(self, old) is not None:
                warnings.warn(f"`{old}` is deprecated, use `{new}` instead", DeprecationWarning, 3)
        self._check()

    def _check(self) -> None:
        for name, limits in _NUMBERS.items():
            value = getattr(self, name)
            if value is not None:
                check_number(name, value, **limits)
        for name in ("min_replicas", "max_replicas", "initial_replicas"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name))
        if self.min_replicas < 0:
            raise ValueError(f"min_replicas ({self.min_replicas}) must be >= 0")
        if self.max_replicas < 1:
            raise ValueError(f"max_replicas ({self.max_replicas}) must be >= 1")
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas ({self.max_replicas}) must be >= min_replicas ({self.min_replicas})")
        if self.initial_replicas is not None and not self.min_replicas <= self.initial_replicas <= self.max_replicas:
            raise ValueError(
                f"min_replicas ({self.min_replicas}) <= initial_replicas ({self.initial_replicas}) <= "
                f"max_replicas ({self.max_replicas}) does not hold"
            )
        if self.aggregation_function not in ("mean", "max", "min"):
            raise ValueError(f"aggregation_function must be mean, max or min, got {self.aggregation_function!r}")
        if self.target() <= 0:
            raise ValueError(f"target_ongoing_requests must be > 0, got {self.target()}")

    @staticmethod
    def default() -> AutoscalingConfig:
        """What `num_replicas="auto"` means."""
        return AutoscalingConfig(min_replicas=1, max_replicas=100)

    def target(self) -> float:
        old = self.target_num_ongoing_requests_per_replica
        return float(old if old is not None else self.target_ongoing_requests)

    def options(self) -> AutoscalingOptions:
        smooth = self.smoothing_factor if self.smoothing_factor is not None else 1.0
        up = _first(self.upscaling_factor, self.upscale_smoothing_factor, smooth)
        down = _first(self.downscaling_factor, self.downscale_smoothing_factor, smooth)
        return AutoscalingOptions(
            min_replicas=self.min_replicas,
            max_replicas=self.max_replicas,
            initial_replicas=self.initial_replicas,
            target_ongoing_requests=self.target(),
            metrics_interval_s=self.metrics_interval_s,
            look_back_period_s=self.look_back_period_s,
            upscaling_factor=up,
            downscaling_factor=down,
            upscale_delay_s=self.upscale_delay_s,
            downscale_delay_s=self.downscale_delay_s,
            downscale_to_zero_delay_s=self.downscale_to_zero_delay_s,
            aggregation_function=self.aggregation_function,
            policy=policy.spec() if (policy := self.custom_policy()) is not None else None,
        )

    def custom_policy(self) -> AutoscalingPolicy | None:
        return checked(AutoscalingPolicy, self.policy, "policy") if self.policy is not None else None


_NUMBERS: Mapping[str, dict[str, float]] = {
    "target_ongoing_requests": {},
    "target_num_ongoing_requests_per_replica": {},
    "metrics_interval_s": {"above": 0},
    "look_back_period_s": {"above": 0},
    "upscaling_factor": {"above": 0},
    "downscaling_factor": {"above": 0},
    "smoothing_factor": {"above": 0},
    "upscale_smoothing_factor": {"above": 0},
    "downscale_smoothing_factor": {"above": 0},
    "upscale_delay_s": {"least": 0},
    "downscale_delay_s": {"least": 0},
    "downscale_to_zero_delay_s": {"least": 0},
}
_OLD_AUTOSCALING = {
    "target_num_ongoing_requests_per_replica": "target_ongoing_requests",
    "smoothing_factor": "upscaling_factor` and `downscaling_factor",
    "upscale_smoothing_factor": "upscaling_factor",
    "downscale_smoothing_factor": "downscaling_factor",
}


def _first(*values: float | None) -> float:
    return next(float(value) for value in values if value is not None)
