"""`@serve.deployment`: what is taken, what becomes of it, and what a Deployment says about itself. No cluster."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import pytest

import serve_rt as serve
from serve_rt.api.graph import flatten
from serve_rt.api.options import resolve
from serve_rt.config import (
    AutoscalingConfig,
    BackpressureConfig,
    LoggingConfig,
    RequestRouterConfig,
)
from serve_rt.model.spec import DeploymentOptions
from tests.conformance.bullets import covers


class Model:
    def __init__(self, name: str = "a") -> None:
        self.name = name

    def __call__(self) -> str:
        return self.name


def work() -> str:
    return "done"


def resolved(**options: Any) -> DeploymentOptions:
    return resolve(serve.deployment(**options)(Model).given)


@covers("1.9-01")
def test_bare_and_with_options() -> None:
    assert isinstance(serve.deployment(Model), serve.Deployment)
    assert isinstance(serve.deployment()(Model), serve.Deployment)
    assert isinstance(serve.deployment(num_replicas=2)(work), serve.Deployment)

    @serve.deployment
    class Decorated: ...

    @serve.deployment(name="other")
    def decorated() -> None: ...

    assert (Decorated.name, decorated.name) == ("Decorated", "other")


@covers("1.9-01")
def test_any_callable() -> None:
    assert serve.deployment(functools.partial(work)).bind().deployment.func_or_class() == "done"
    assert serve.deployment(Model()).bind() is not None


@covers("1.9-03", "1.9-37")
def test_names() -> None:
    assert serve.deployment(Model).name == "Model"
    assert serve.deployment(work).name == "work"
    assert serve.deployment(name="m")(Model).name == "m"
    assert serve.deployment(Model).options(name="n").name == "n"
    assert str(serve.deployment(Model)) == "Deployment(name=Model)"


@covers("1.9-04")
def test_equal_names_in_one_application(caplog: pytest.LogCaptureFixture) -> None:
    @serve.deployment
    class Front:
        def __init__(self, *models: Any) -> None: ...

    model = serve.deployment(Model)
    graph = flatten(Front.bind(model.bind("a"), model.bind("b"), model.bind("c")), "app")
    assert [bound.name for bound in graph.deployments] == ["Model", "Model_1", "Model_2", "Front"]
    assert "Model_1" in caplog.text and "options(name=" in caplog.text


@covers("1.9-06", "1.9-07")
def test_replicas() -> None:
    assert resolved().num_replicas == 1
    assert resolved(num_replicas=4).num_replicas == 4
    assert resolved(num_replicas=None).num_replicas == 1
    auto = resolved(num_replicas="auto").autoscaling
    assert auto is not None
    assert (auto.min_replicas, auto.max_replicas, auto.target_ongoing_requests) == (1, 100, 2)


@covers("1.9-07")
def test_auto_with_a_config_of_its_own() -> None:
    auto = resolved(
        num_replicas="auto", autoscaling_config={"max_replicas": 7, "target_ongoing_requests": 5}
    ).autoscaling
    assert auto is not None
    assert (auto.min_replicas, auto.max_replicas, auto.target_ongoing_requests) == (1, 7, 5)
    unbounded = resolved(num_replicas="auto", autoscaling_config={"target_ongoing_requests": 5}).autoscaling
    assert unbounded is not None and unbounded.max_replicas == 100


@covers("1.9-09")
def test_actor_options() -> None:
    assert serve.deployment(Model).ray_actor_options == {"num_cpus": 1}
    assert serve.deployment(ray_actor_options={"num_gpus": 0.5})(Model).ray_actor_options["num_cpus"] == 1
    resources = resolved(ray_actor_options={"num_cpus": 0.25, "memory": 1 << 20, "resources": {"disk": 1}}).resources
    assert (resources.milli_cpu, resources.memory_bytes, resources.custom) == (250, 1 << 20, {"disk": 1000})
    assert resolved(ray_actor_options={"num_cpus": 0}).resources.milli_cpu == 0


@covers("1.9-13", "1.9-17", "1.9-22", "1.9-23", "1.9-27", "1.9-29")
@pytest.mark.parametrize(
    ("name", "value", "default"),
    [
        ("max_replicas_per_node", 3, None),
        ("max_queued_requests", 5, -1),
        ("graceful_shutdown_wait_loop_s", 0, 2),
        ("graceful_shutdown_timeout_s", 7.5, 20),
        ("health_check_period_s", 1, 10),
        ("health_check_timeout_s", 1, 30),
        ("max_constructor_retry_count", 2, 20),
        ("max_surge_percent", 100, 25),
        ("max_ongoing_requests", 8, 100),
    ],
)
def test_values_and_defaults(name: str, value: float, default: float | None) -> None:
    assert getattr(resolved(**{name: value}), name) == value
    assert getattr(resolved(), name) == default


@covers("1.9-15", "1.9-16")
def test_the_old_name_of_max_ongoing_requests() -> None:
    with pytest.warns(DeprecationWarning, match="use `max_ongoing_requests`"):
        old = serve.deployment(max_concurrent_queries=7)(Model)
    assert old.max_ongoing_requests == 7
    assert serve.deployment(Model).max_ongoing_requests == 100
    with pytest.warns(DeprecationWarning, match="use `max_ongoing_requests`"):
        assert old.options(max_concurrent_queries=9).max_ongoing_requests == 9


@covers("1.9-18")
@pytest.mark.parametrize("given", [{"status_code": 429, "retry_after_s": 2.5}, BackpressureConfig(429, 2.5)])
def test_backpressure(given: Any) -> None:
    options = resolved(backpressure_config=given)
    assert (options.backpressure_status, options.backpressure_retry_after_s) == (429, 2.5)
    assert serve.deployment(backpressure_config=given)(Model).backpressure_config == BackpressureConfig(429, 2.5)
    assert serve.deployment(Model).backpressure_config == BackpressureConfig(503, None)


@covers("1.9-19")
def test_autoscaling_as_class_and_dict() -> None:
    fields: dict[str, Any] = {"min_replicas": 0, "initial_replicas": 1, "max_replicas": 4, "upscale_delay_s": 0}
    assert resolved(autoscaling_config=fields) == resolved(autoscaling_config=AutoscalingConfig(**fields))
    options = resolved(autoscaling_config=fields).autoscaling
    assert options is not None
    assert (options.min_replicas, options.initial_replicas, options.max_replicas) == (0, 1, 4)
    defaults = AutoscalingConfig()
    assert (defaults.min_replicas, defaults.max_replicas, defaults.target_ongoing_requests) == (1, 1, 2)
    assert (defaults.metrics_interval_s, defaults.look_back_period_s) == (10, 30)
    assert (defaults.upscale_delay_s, defaults.downscale_delay_s) == (30, 600)


@covers("1.9-20")
def test_old_autoscaling_names_have_their_effect() -> None:
    with pytest.warns(DeprecationWarning, match="use `target_ongoing_requests`"):
        options = resolved(autoscaling_config={"target_num_ongoing_requests_per_replica": 9}).autoscaling
    assert options is not None and options.target_ongoing_requests == 9
    with pytest.warns(DeprecationWarning, match="upscaling_factor"):
        options = resolved(autoscaling_config={"smoothing_factor": 0.5}).autoscaling
    assert options is not None and (options.upscaling_factor, options.downscaling_factor) == (0.5, 0.5)
    with pytest.warns(DeprecationWarning, match="downscaling_factor"):
        options = resolved(autoscaling_config={"downscale_smoothing_factor": 0.25}).autoscaling
    assert options is not None and (options.upscaling_factor, options.downscaling_factor) == (1, 0.25)


@covers("1.9-24")
def test_logging() -> None:
    given = {"log_level": "debug", "encoding": "JSON", "enable_access_log": False, "logs_dir": "/tmp/x"}
    deployment = serve.deployment(logging_config=given)(Model)
    assert deployment.logging_config == LoggingConfig("JSON", "DEBUG", "/tmp/x", False)
    assert LoggingConfig(log_level=10).log_level == "DEBUG"
    assert LoggingConfig(additional_log_standard_attrs=["name"]).additional_log_standard_attrs == ("name",)


@covers("1.9-32")
def test_set_logging_config() -> None:
    deployment = serve.deployment(Model)
    assert deployment.logging_config is None
    deployment.set_logging_config({"encoding": "JSON"})
    assert deployment.logging_config == LoggingConfig(encoding="JSON")
    with pytest.raises(ValueError, match="encoding"):
        deployment.set_logging_config({"encoding": "XML"})


@covers("1.9-26")
def test_the_router_that_there_is() -> None:
    path = "ray.serve._private.request_router:PowerOfTwoChoicesRequestRouter"
    for given in ({"request_router_class": path}, RequestRouterConfig(), {"request_routing_stats_period_s": 1}, None):
        assert serve.deployment(request_router_config=given)(Model).bind() is not None


@covers("1.9-28")
def test_rolling_update_percentage() -> None:
    assert resolved(rolling_update_percentage=1).max_unavailable == 1
    assert resolved(rolling_update_percentage=0.5, num_replicas=8).max_unavailable == 4
    assert serve.deployment(Model).options(rolling_update_percentage=0.5).given["rolling_update_percentage"] == 0.5


@covers("1.9-31")
def test_attributes() -> None:
    config = {"threshold": 0.5}
    deployment = serve.deployment(num_replicas=3, user_config=config, max_queued_requests=9)(Model)
    bound = deployment.bind("b").deployment
    assert deployment.func_or_class is Model
    assert (deployment.num_replicas, deployment.user_config, deployment.max_queued_requests) == (3, config, 9)
    assert deployment.version is None
    assert (bound.init_args, bound.init_kwargs) == (("b",), {})
    assert serve.deployment(Model).bind(name="c").deployment.init_kwargs == {"name": "c"}
    assert serve.deployment(Model).max_queued_requests == -1


@covers("1.9-33")
def test_options_is_a_copy() -> None:
    first = serve.deployment(num_replicas=2, max_ongoing_requests=5)(Model)
    second = first.options(num_replicas=3)
    assert (first.num_replicas, second.num_replicas) == (2, 3)
    assert second.max_ongoing_requests == 5
    assert second.func_or_class is Model


@covers("1.9-33")
def test_options_changes_between_fixed_and_autoscaled() -> None:
    fixed = serve.deployment(num_replicas=2)(Model)
    scaled = fixed.options(autoscaling_config={"max_replicas": 5})
    assert resolve(scaled.given).autoscaling is not None
    again = scaled.options(num_replicas=4)
    assert resolve(again.given).autoscaling is None and resolve(again.given).num_replicas == 4
    assert resolve(fixed.options(num_replicas="auto").given).autoscaling is not None


@covers("1.9-34")
def test_options_with_another_class() -> None:
    deployment = serve.deployment(num_replicas=2)(Model).options(work)
    assert deployment.func_or_class is work and deployment.num_replicas == 2 and deployment.name == "work"
    named = serve.deployment(name="m")(Model).options(func_or_class=work)
    assert named.func_or_class is work and named.name == "m"
    assert serve.deployment(Model).options(_init_args=(1,), _init_kwargs={"b": 2}).init_kwargs == {"b": 2}


@covers("1.9-36")
def test_equality() -> None:
    assert serve.deployment(Model) == serve.deployment(Model)
    assert serve.deployment(num_replicas=2)(Model) == serve.deployment(Model).options(num_replicas=2)
    assert serve.deployment(Model) != serve.deployment(Model).options(name="other")
    assert serve.deployment(Model) != serve.deployment(work)
    assert serve.deployment(Model).bind(1).deployment != serve.deployment(Model).bind(2).deployment
    assert serve.deployment(Model) != "Model"


@covers("1.9-16", "1.9-20")
def test_names_of_today_warn_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        options = resolved(max_ongoing_requests=4, autoscaling_config={"target_ongoing_requests": 3, "max_replicas": 2})
    assert options.max_ongoing_requests == 4
