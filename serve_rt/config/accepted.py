"""Configuration classes of Ray whose defaults are taken, and whose other values say what to do instead.

Programs construct them and pass them on; what we cannot do is refused where it is written, never ignored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from serve_rt.config.copying import Copied
from serve_rt.config.fields import check_bool, check_integer, check_number
from serve_rt.errors import ConfigError
from serve_rt.model.routes import FailureRule

POWER_OF_TWO = "PowerOfTwoChoicesRequestRouter"


@dataclass(frozen=True)
class RequestRouterConfig(Copied):
    """How requests choose a replica; the stats fields say how often `record_routing_stats` is asked.

    Not in Ray: `failure_statuses` declares which answers over HTTP count against the replica that gave them: statuses
    from 500 to 599, none by default. A 4xx is the client's doing and never counts; an exception in a handler is a 500.
    `consecutive_failures` of them in a row take a replica out of rotation for `base_ejection_s`, times the number of
    ejections it had lately; then its next answer decides. At most `max_ejection_percent` of the replicas are out so,
    and one always stays. With more than half out for any reason, all that can be reached are used. Each proxy and
    each caller counts for itself.
    """

    request_router_class: Any = f"serve_rt.request_router:{POWER_OF_TWO}"
    request_router_kwargs: Mapping[str, Any] = field(default_factory=dict)
    request_routing_stats_period_s: float = 10.0
    request_routing_stats_timeout_s: float = 30.0
    initial_backoff_s: float = 0.025
    backoff_multiplier: float = 2.0
    max_backoff_s: float = 0.5
    failure_statuses: Sequence[int] = ()
    consecutive_failures: int = 5
    base_ejection_s: float = 30.0
    max_ejection_percent: int = 50

    def __post_init__(self) -> None:
        router = self.request_router_class
        name = router if isinstance(router, str) else getattr(router, "__name__", repr(router))
        if not name.endswith(POWER_OF_TWO):
            raise ConfigError(
                f"request_router_class={name!r} is not supported: requests go to the less loaded of two random "
                "replicas, and routers cannot be replaced."
            )
        for stats in ("request_routing_stats_period_s", "request_routing_stats_timeout_s"):
            check_number(f"RequestRouterConfig.{stats}", getattr(self, stats), above=0)
        for pause in ("initial_backoff_s", "backoff_multiplier", "max_backoff_s"):
            check_number(f"RequestRouterConfig.{pause}", getattr(self, pause), least=0)
        self._check_failures()

    def _check_failures(self) -> None:
        given = self.failure_statuses
        if isinstance(given, str | bytes) or not isinstance(given, Sequence):
            raise TypeError(f"RequestRouterConfig.failure_statuses must be a list of statuses, got {given!r}.")
        for status in given:
            if isinstance(status, bool) or not isinstance(status, int) or not 500 <= status <= 599:
                raise ValueError(
                    f"RequestRouterConfig.failure_statuses: {status!r} cannot count against a replica, only "
                    "statuses from 500 to 599 can."
                )
        check_integer("RequestRouterConfig.consecutive_failures", self.consecutive_failures, least=1)
        check_number("RequestRouterConfig.base_ejection_s", self.base_ejection_s, above=0)
        check_integer("RequestRouterConfig.max_ejection_percent", self.max_ejection_percent, least=0)
        if self.max_ejection_percent > 100:
            raise ValueError(f"RequestRouterConfig.max_ejection_percent is {self.max_ejection_percent}, more than 100.")

    def failures(self) -> FailureRule | None:
        if not self.failure_statuses:
            return None
        return FailureRule(
            tuple(sorted(set(self.failure_statuses))),
            self.consecutive_failures,
            self.base_ejection_s,
            self.max_ejection_percent,
        )


@dataclass(frozen=True)
class TracingConfig(Copied):
    enabled: bool = False
    exporter_import_path: str = ""
    sampling_ratio: float = 0.01

    def __post_init__(self) -> None:
        check_bool("TracingConfig.enabled", self.enabled)
        check_number("TracingConfig.sampling_ratio", self.sampling_ratio, least=0)
        if self.sampling_ratio > 1:
            raise ValueError(f"TracingConfig.sampling_ratio must be from 0 to 1, got {self.sampling_ratio!r}.")


@dataclass(frozen=True)
class ControllerOptions(Copied):
    runtime_env: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.runtime_env, Mapping):
            raise TypeError(f"ControllerOptions.runtime_env must be a dict, got {type(self.runtime_env).__name__}.")
        for key in self.runtime_env:
            if key != "env_vars":
                raise ConfigError(f"ControllerOptions.runtime_env[{key!r}] is not supported: only env_vars are.")
