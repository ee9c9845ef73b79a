"""`@serve.deployment`, `.options`, `.bind`: what is taken, what is refused and in which words."""

from __future__ import annotations

from typing import Any

import pytest

import serve_rt as serve
from serve_rt.api.options import resolve
from serve_rt.config import AutoscalingConfig, BackpressureConfig
from serve_rt.errors import ConfigError
from serve_rt.model.resources import Resources


class Model:
    pass


def test_works_bare_and_with_options_on_classes_and_functions() -> None:
    def work() -> None: ...

    assert serve.deployment(Model).name == "Model"
    assert serve.deployment(name="other")(Model).name == "other"
    assert serve.deployment(work).name == "work"
    assert str(serve.deployment(Model)) == "Deployment(name=Model)"


def test_defaults() -> None:
    options = resolve(serve.deployment(Model).given)
    assert (options.max_ongoing_requests, options.max_surge_percent, options.num_replicas) == (100, 25, 1)
    assert options.resources == Resources(milli_cpu=1000, cpu_implied=True)
    assert serve.deployment(Model).ray_actor_options == {"num_cpus": 1}


def test_values_arrive() -> None:
    options = resolve(
        serve.deployment(
            num_replicas=3,
            max_ongoing_requests=7,
            user_config={"b": 1, "a": [2]},
            backpressure_config={"status_code": 429, "retry_after_s": 2},
            ray_actor_options={
                "num_cpus": 0.5,
                "num_gpus": 0.25,
                "memory": 1024,
                "resources": {"disk": 2},
                "runtime_env": {"env_vars": {"A": "b"}},
                "label_selector": {"zone": "x"},
            },
            rolling_update_percentage=0.5,
            retry_safe=True,
            stuck_timeout_s=12,
        )(Model).given
    )
    assert options.resources == Resources(500, 1024, 250, {"disk": 2000})
    assert (options.num_replicas, options.max_ongoing_requests, options.max_unavailable) == (3, 7, 1)
    assert options.user_config_json == '{"a": [2], "b": 1}'
    assert (options.backpressure_status, options.backpressure_retry_after_s) == (429, 2)
    assert options.env_vars == {"A": "b"} and options.labels == {"zone": "x"}
    assert options.retry_safe is True and options.stuck_timeout_s == 12


def test_autoscaling() -> None:
    auto = resolve(serve.deployment(num_replicas="auto")(Model).given).autoscaling
    assert auto is not None and (auto.min_replicas, auto.max_replicas, auto.target_ongoing_requests) == (1, 100, 2)
    given = resolve(
        serve.deployment(autoscaling_config={"min_replicas": 0, "max_replicas": 4})(Model).given
    ).autoscaling
    assert given is not None and (given.min_replicas, given.max_replicas, given.start_replicas()) == (0, 4, 1)
    with pytest.warns(DeprecationWarning, match="target_ongoing_requests"):
        old = AutoscalingConfig(max_replicas=2, target_num_ongoing_requests_per_replica=5)
    assert old.options().target_ongoing_requests == 5


def test_names_of_2_6_are_taken_with_a_warning() -> None:
    with pytest.warns(DeprecationWarning, match="max_ongoing_requests"):
        assert serve.deployment(max_concurrent_queries=9)(Model).max_ongoing_requests == 9


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_replica": 2}, TypeError, "Did you mean 'num_replicas'"),
        ({"num_replica": 2}, ConfigError, "Did you mean 'num_replicas'"),
        ({"zzz": 2}, TypeError, "Known: "),
        ({"name": 3}, TypeError, "must be a string"),
        ({"name": "a#b"}, ValueError, "#"),
        ({"version": "v1"}, ValueError, "removed"),
        ({"num_replicas": 0}, ValueError, "num_replicas is expected to larger than 0"),
        ({"num_replicas": "many"}, TypeError, "num_replicas"),
        (
            {"num_replicas": 2, "autoscaling_config": {"max_replicas": 2}},
            ValueError,
            "Manually setting num_replicas is not allowed when autoscaling_config is provided.",
        ),
        ({"ray_actor_options": [1]}, TypeError, "dictionary"),
        ({"ray_actor_options": {"num_cpu": 1}}, ValueError, "Specifying 'num_cpu' in ray_actor_options is not allowed"),
        ({"ray_actor_options": {"num_gpus": 1.5}}, ValueError, "whole number"),
        ({"ray_actor_options": {"runtime_env": {"pip": ["x"]}}}, ConfigError, "pip"),
        ({"max_replicas_per_node": 101}, ValueError, "100"),
        ({"user_config": {"a": object()}}, ValueError, "JSON-serializable"),
        ({"max_ongoing_requests": None}, ValueError, "`max_ongoing_requests` must be non-null, got None."),
        ({"max_ongoing_requests": 0}, ValueError, "at least 1"),
        ({"max_queued_requests": 0}, ValueError, "-1"),
        ({"max_queued_requests": 1.5}, TypeError, "integer"),
        ({"backpressure_config": {"status_code": 500}}, ValueError, "503 or 429"),
        ({"backpressure_config": {"status": 429}}, ConfigError, "status_code"),
        ({"autoscaling_config": {"min_replicas": 3, "max_replicas": 2}}, ValueError, "max_replicas"),
        ({"autoscaling_config": {"min_replica": 3}}, ConfigError, "min_replicas"),
        ({"autoscaling_config": 3}, TypeError, "AutoscalingConfig"),
        ({"graceful_shutdown_timeout_s": -1}, ValueError, "at least 0"),
        ({"health_check_period_s": 0}, ValueError, "greater than 0"),
        ({"max_constructor_retry_count": 0}, ValueError, "at least 1"),
        ({"rolling_update_percentage": 0}, ValueError, "greater than 0"),
        ({"max_surge_percent": 101}, ValueError, "0 to 100"),
        ({"retry_safe": 1}, TypeError, "True, False or None"),
        ({"placement_group_bundles": [{}]}, ConfigError, "ray_actor_options"),
        ({"gang_scheduling_config": {}}, ConfigError, "handles"),
        ({"init_args": (1,)}, ConfigError, "bind"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message.replace("(", r"\(")):
        serve.deployment(**options)(Model)


def test_options_gives_a_copy() -> None:
    first = serve.deployment(num_replicas=2, max_ongoing_requests=5)(Model)
    second = first.options(num_replicas=3, name="x")
    assert (first.num_replicas, first.name) == (2, "Model")
    assert (second.num_replicas, second.name, second.max_ongoing_requests) == (3, "x", 5)
    assert first == first.options() and first != second
    assert first.options(autoscaling_config={"max_replicas": 3}).given.get("num_replicas") is None
    with pytest.raises(TypeError, match="num_replicas"):
        first.options(num_replica=2)


def test_what_is_not_a_deployment() -> None:
    with pytest.raises(TypeError, match="must be called on a class or function"):
        serve.deployment(name="x")(3)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="should not be called directly"):
        serve.Deployment(Model, {})
    with pytest.raises(RuntimeError, match="cannot be constructed directly"):
        serve.deployment(Model)()
    with pytest.raises(ValueError, match="init_args not supported for function deployments"):
        serve.deployment(lambda: None).bind(1)


def test_settings_classes() -> None:
    assert BackpressureConfig().status_code == 503
    with pytest.raises(ValueError):
        BackpressureConfig(status_code=200)
