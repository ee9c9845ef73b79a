"""Configuration classes: fields, defaults, and what they refuse. No cluster."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

import serve_rt as serve
from serve_rt import config, schema
from serve_rt.config import (
    AggregationFunction,
    AutoscalingConfig,
    AutoscalingContext,
    AutoscalingPolicy,
    BackpressureConfig,
    ControllerOptions,
    HTTPOptions,
    ProxyLocation,
    RequestRouterConfig,
    gRPCOptions,
)
from serve_rt.schema import LoggingConfig, TracingConfig
from tests.conformance.bullets import covers


def has(value: Any, **expected: Any) -> None:
    for name, one in expected.items():
        assert getattr(value, name) == one, name


@covers("2.1-01")
def test_http_options() -> None:
    has(HTTPOptions(), host="127.0.0.1", port=8000, root_url="", root_path="", request_timeout_s=None)
    has(HTTPOptions(), keep_alive_timeout_s=90, location=None, num_cpus=0, ssl_keyfile=None, ssl_certfile=None)


@covers("2.1-02")
def test_http_options_refused() -> None:
    with pytest.raises(ValueError, match="ssl_keyfile and ssl_certfile must be given together"):
        HTTPOptions(ssl_certfile="cert.pem")
    with pytest.raises(ValueError, match=r"HTTPOptions.port.*70000"):
        HTTPOptions(port=70000)
    assert HTTPOptions(request_timeout_s=-1).request_timeout_s is None


@covers("2.2-01")
def test_proxy_location() -> None:
    assert [one.value for one in ProxyLocation] == ["Disabled", "HeadOnly", "EveryNode"]
    assert ProxyLocation("HeadOnly") is ProxyLocation.HeadOnly
    assert ProxyLocation.EveryNode == "EveryNode", "an enum of strings"


@covers("2.3-01")
def test_grpc_options() -> None:
    has(gRPCOptions(), port=9000, request_timeout_s=None, enable_reflection=True)
    assert not gRPCOptions().grpc_servicer_functions
    with pytest.raises(ValueError, match="there is no gRPC ingress"):
        serve.start(grpc_options={"grpc_servicer_functions": ["my.module:add_servicer"]})


@covers("2.4-01")
def test_autoscaling_config() -> None:
    given = AutoscalingConfig()
    has(given, min_replicas=1, initial_replicas=None, max_replicas=1, target_ongoing_requests=2, metrics_interval_s=10)
    has(given, look_back_period_s=30, upscaling_factor=None, downscaling_factor=None, upscale_delay_s=30)
    has(given, downscale_delay_s=600, downscale_to_zero_delay_s=None, aggregation_function="mean")
    has(AutoscalingConfig.default(), min_replicas=1, max_replicas=100, target_ongoing_requests=2)


@covers("2.4-02")
def test_aggregation_functions() -> None:
    for function in ("mean", "max", "min", *AggregationFunction):
        assert AutoscalingConfig(aggregation_function=function).aggregation_function == function
    with pytest.raises(ValueError, match=r"mean, max or min.*median"):
        AutoscalingConfig(aggregation_function="median")


def _policy(context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
    return context.current_num_replicas, {}


@covers("2.5-01")
def test_policies() -> None:
    for function in ("module:function", _policy):
        assert AutoscalingConfig(policy=AutoscalingPolicy(policy_function=function)).policy is not None
    with pytest.raises(ValueError, match="policy_kwargs must be JSON"):
        AutoscalingPolicy(policy_kwargs={"a": object()})


@covers("2.5-02")
def test_what_policies_are_told() -> None:
    told = {one.name for one in dataclasses.fields(AutoscalingContext)}
    told |= {name for name in dir(AutoscalingContext) if not name.startswith("_")}
    names = """deployment_id deployment_name app_name current_num_replicas target_num_replicas running_replicas
        total_num_requests total_queued_requests total_running_requests aggregated_metrics raw_metrics
        capacity_adjusted_min_replicas capacity_adjusted_max_replicas policy_state last_scale_up_time
        last_scale_down_time current_time config"""
    assert set(names.split()) <= told


@covers("2.8-01")
def test_backpressure_config() -> None:
    has(BackpressureConfig(), status_code=503, retry_after_s=None)
    with pytest.raises(ValueError, match=r"503 or 429.*500"):
        BackpressureConfig(status_code=500)
    with pytest.raises(ValueError, match="retry_after_s"):
        BackpressureConfig(retry_after_s=-1)


@covers("2.9-01")
def test_request_router_config() -> None:
    given = RequestRouterConfig()
    has(given, request_router_kwargs={}, request_routing_stats_period_s=10, request_routing_stats_timeout_s=30)
    has(given, initial_backoff_s=0.025, backoff_multiplier=2, max_backoff_s=0.5)


@covers("2.10-01")
def test_logging_config() -> None:
    has(LoggingConfig(), encoding="TEXT", log_level="INFO", logs_dir=None, enable_access_log=True)
    assert list(LoggingConfig().additional_log_standard_attrs) == []
    for wrong, words in (({"log_level": "LOUD"}, "LOUD"), ({"encoding": "XML"}, "TEXT or JSON")):
        with pytest.raises(ValueError, match=words):
            LoggingConfig(**wrong)  # type: ignore[arg-type]  # that is the case
    with pytest.raises(ValueError, match="'nope' is no attribute"):
        LoggingConfig(additional_log_standard_attrs=["nope"])


@covers("2.10-02")
def test_tracing_and_controller() -> None:
    has(TracingConfig(), enabled=False, exporter_import_path="", sampling_ratio=0.01)
    with pytest.raises(ValueError, match="from 0 to 1"):
        TracingConfig(sampling_ratio=2)
    assert ControllerOptions(runtime_env={"env_vars": {"A": "b"}}).runtime_env == {"env_vars": {"A": "b"}}
    with pytest.raises(ValueError, match="only env_vars"):
        ControllerOptions(runtime_env={"pip": ["x"]})


@covers("2.13-01")
@pytest.mark.parametrize(
    ("module", "name", "words"),
    [
        (config, "DeploymentActorConfig", "deployment of its own"),
        (config, "GangSchedulingConfig", "separate deployments"),
        (schema, "ServeDeploySchema", "`serve deploy`"),
    ],
)
def test_what_is_not_here(module: Any, name: str, words: str) -> None:
    with pytest.raises(ImportError, match=words):
        getattr(module, name)


@covers("10.1-01")
@pytest.mark.parametrize(
    ("kind", "wrong", "near"),
    [
        (HTTPOptions, "prot", "port"),
        (AutoscalingConfig, "max_replica", "max_replicas"),
        (BackpressureConfig, "status", "status_code"),
        (LoggingConfig, "loglevel", "log_level"),
        (gRPCOptions, "ports", "port"),
    ],
)
def test_unknown_keywords(kind: Any, wrong: str, near: str) -> None:
    for error in (TypeError, ValueError):
        with pytest.raises(error, match=f"{kind.__name__} has no option '{wrong}'. Did you mean '{near}'"):
            kind(**{wrong: 1})
