"""`@serve.deployment`: what is refused, with which error, and what the message says. No cluster."""

from __future__ import annotations

import re
from typing import Any

import pytest

import serve_rt as serve
from tests.conformance.bullets import covers


class Model:
    def __call__(self) -> str:
        return "answer"


def refused(kind: type[Exception], *words: str, **options: Any) -> None:
    """By the decorator and by .options() alike, in the same words."""
    for decorate in (serve.deployment, serve.deployment(Model).options):
        with pytest.raises(kind) as raised:
            decorate(**options)
        for word in words:
            assert re.search(word, str(raised.value)), f"{word!r} is not in {str(raised.value)!r}"


@covers("1.9-02")
@pytest.mark.parametrize("thing", [3, "Model", [], {"a": 1}])
def test_what_cannot_be_called(thing: Any) -> None:
    with pytest.raises(TypeError, match="@serve.deployment must be called on a class or function"):
        serve.deployment()(thing)


@covers("1.9-02")
def test_bare_on_what_cannot_be_called() -> None:
    with pytest.raises(TypeError, match="@serve.deployment must be called on a class or function"):
        serve.deployment(3)  # type: ignore[call-overload]  # that is the case


@covers("1.9-02")
def test_a_deployment_of_a_deployment() -> None:
    with pytest.raises(TypeError, match=r"class or function.*options"):
        serve.deployment(serve.deployment(Model))


@covers("1.9-03")
def test_names() -> None:
    refused(TypeError, "name", "string", "int", name=5)
    refused(ValueError, "a#b", "#", name="a#b")
    refused(ValueError, "name", name="")


@covers("1.9-05")
def test_version() -> None:
    refused(ValueError, "version", "removed", version="v1")


@covers("1.9-06")
@pytest.mark.parametrize("value", [0, -1])
def test_too_few_replicas(value: int) -> None:
    refused(ValueError, "num_replicas is expected to larger than 0", str(value), num_replicas=value)


@covers("1.9-06")
@pytest.mark.parametrize("value", [1.5, "two", True, [1]])
def test_replicas_that_are_no_number(value: Any) -> None:
    refused(TypeError, "num_replicas", "integer", "auto", re.escape(repr(value)), num_replicas=value)


@covers("1.9-08")
def test_replicas_and_autoscaling() -> None:
    words = "Manually setting num_replicas is not allowed when autoscaling_config is provided"
    refused(ValueError, words, num_replicas=2, autoscaling_config={"max_replicas": 3})


@covers("1.9-09")
@pytest.mark.parametrize("value", [5, "num_cpus", ["num_cpus"]])
def test_actor_options_that_are_no_dict(value: Any) -> None:
    refused(TypeError, "ray_actor_options", "dict", type(value).__name__, ray_actor_options=value)


@covers("1.9-10")
@pytest.mark.parametrize("key", ["max_restarts", "lifetime", "name", "placement_group"])
def test_actor_options_of_other_things(key: str) -> None:
    refused(
        ValueError,
        f"Specifying '{key}' in ray_actor_options is not allowed",
        "num_cpus",
        "runtime_env",
        ray_actor_options={key: 1},
    )


@covers("1.9-10", "1.9-30")
def test_actor_options_name_the_nearest() -> None:
    refused(ValueError, "'num_cpu'", "Did you mean 'num_cpus'", ray_actor_options={"num_cpu": 1})


@covers("1.9-10")
@pytest.mark.parametrize(
    ("options", "kind", "word"),
    [
        ({"num_cpus": -1}, ValueError, "num_cpus"),
        ({"num_cpus": "many"}, TypeError, "num_cpus"),
        ({"num_gpus": 1.5}, ValueError, "whole number"),
        ({"num_gpus": 0.0001}, ValueError, "0.001"),
        ({"memory": -5}, ValueError, "memory"),
        ({"resources": {"disk": -1}}, ValueError, "disk"),
        ({"resources": ["disk"]}, TypeError, "resources"),
        ({"runtime_env": {"env_vars": {"A": 1}}}, TypeError, "'A'"),
        ({"runtime_env": "env"}, TypeError, "runtime_env"),
        ({"runtime_env": {"pip": ["torch"]}}, ValueError, "install packages"),
        ({"label_selector": {"zone": 1}}, TypeError, "zone"),
        ({"fallback_strategy": [{}]}, ValueError, "label_selector"),
    ],
)
def test_actor_options_with_wrong_values(options: dict[str, Any], kind: type[Exception], word: str) -> None:
    refused(kind, word, ray_actor_options=options)


@covers("1.9-12")
@pytest.mark.parametrize(
    ("option", "instead"),
    [
        ({"placement_group_bundles": [{"CPU": 1}]}, "ray_actor_options"),
        ({"placement_group_strategy": "PACK"}, "max_replicas_per_node"),
        ({"placement_group_bundle_label_selector": [{}]}, "label_selector"),
        ({"gang_scheduling_config": {"gang_size": 2}}, "deployments"),
        ({"deployment_actors": [{}]}, "deployment"),
    ],
)
def test_what_needs_ray(option: dict[str, Any], instead: str) -> None:
    (name,) = option
    refused(ValueError, name, "not supported", instead, **option)


@covers("1.9-12")
def test_what_needs_ray_may_be_none() -> None:
    assert serve.deployment(placement_group_bundles=None, gang_scheduling_config=None)(Model).name == "Model"


@covers("1.9-13")
def test_replicas_per_node() -> None:
    for value in (0, 101, -3):
        refused(ValueError, "max_replicas_per_node", str(value), "1 to 100", max_replicas_per_node=value)
    refused(TypeError, "max_replicas_per_node", "integer", max_replicas_per_node="2")


@covers("1.9-14")
@pytest.mark.parametrize("value", [{"model": object()}, {1, 2}, b"bytes", {"f": len}])
def test_user_config_that_is_not_json(value: Any) -> None:
    refused(ValueError, "user_config must be JSON-serializable", "not JSON serializable", user_config=value)


@covers("1.9-15")
def test_max_ongoing_requests() -> None:
    with pytest.raises(ValueError, match="`max_ongoing_requests` must be non-null, got None"):
        serve.deployment(max_ongoing_requests=None)  # type: ignore[call-overload]  # that is the case
    for value in (0, -1):
        refused(ValueError, "max_ongoing_requests", "at least 1", str(value), max_ongoing_requests=value)
    for wrong in (1.5, "5", True):
        refused(TypeError, "max_ongoing_requests", "integer", max_ongoing_requests=wrong)


@covers("1.9-16")
def test_the_old_name_is_checked_too() -> None:
    with (
        pytest.warns(DeprecationWarning, match="max_concurrent_queries"),
        pytest.raises(ValueError, match="at least 1"),
    ):
        serve.deployment(max_concurrent_queries=0)


@covers("1.9-16")
def test_both_names_at_once() -> None:
    with pytest.raises(ValueError, match="max_concurrent_queries.*max_ongoing_requests"):
        serve.deployment(max_concurrent_queries=3, max_ongoing_requests=4)


@covers("1.9-17")
def test_max_queued_requests() -> None:
    for value in (0, -2):
        refused(ValueError, "max_queued_requests", "-1", str(value), max_queued_requests=value)
    for wrong in (1.5, "5", None, False):
        refused(TypeError, "max_queued_requests", "integer", max_queued_requests=wrong)


@covers("1.9-18")
def test_backpressure() -> None:
    refused(ValueError, "status_code", "503", "429", "500", backpressure_config={"status_code": 500})
    refused(ValueError, "retry_after_s", "-1", backpressure_config={"retry_after_s": -1})
    refused(TypeError, "backpressure_config", "dict", backpressure_config=429)
    refused(ValueError, "'status'", "Did you mean 'status_code'", backpressure_config={"status": 429})


@covers("1.9-19")
@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"min_replicas": 3, "max_replicas": 2}, ("max_replicas", "min_replicas", "3", "2")),
        ({"min_replicas": -1}, ("min_replicas", "-1")),
        ({"max_replicas": 0}, ("max_replicas", "0")),
        ({"min_replicas": 2, "initial_replicas": 1, "max_replicas": 3}, ("initial_replicas", "min_replicas")),
        ({"initial_replicas": 9, "max_replicas": 3}, ("initial_replicas", "max_replicas")),
        ({"target_ongoing_requests": 0}, ("target_ongoing_requests", "0")),
        ({"aggregation_function": "median"}, ("aggregation_function", "mean", "median")),
        ({"upscale_delay_s": -1}, ("upscale_delay_s", "-1")),
        ({"look_back_period_s": 0}, ("look_back_period_s", "0")),
        ({"upscaling_factor": 0}, ("upscaling_factor", "0")),
    ],
)
def test_autoscaling_out_of_order(config: dict[str, Any], words: tuple[str, ...]) -> None:
    refused(ValueError, *words, autoscaling_config=config)


@covers("1.9-19")
def test_autoscaling_of_a_wrong_type() -> None:
    refused(TypeError, "autoscaling_config", "dict", "int", autoscaling_config=3)
    refused(TypeError, "max_replicas", "integer", "'3'", autoscaling_config={"max_replicas": "3"})
    refused(TypeError, "upscale_delay_s", "number", autoscaling_config={"upscale_delay_s": "soon"})


@covers("1.9-21")
def test_autoscaling_with_an_unknown_key() -> None:
    refused(ValueError, "'max_replica'", "Did you mean 'max_replicas'", autoscaling_config={"max_replica": 3})
    refused(ValueError, "'scale'", "Known: .*max_replicas", autoscaling_config={"scale": 3})


@covers("1.9-22", "1.9-23")
@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("graceful_shutdown_wait_loop_s", 0),
        ("graceful_shutdown_timeout_s", 0),
        ("health_check_period_s", 0.1),
        ("health_check_timeout_s", 0.1),
    ],
)
def test_seconds(name: str, least: float) -> None:
    refused(ValueError, name, "0", "-1", **{name: -1})
    refused(TypeError, name, "number", "'soon'", **{name: "soon"})
    given: dict[str, Any] = {name: least}
    assert serve.deployment(Model).options(**given).given[name] == least
    if least > 0:
        refused(ValueError, name, "greater than 0", **{name: 0})


@covers("1.9-24")
def test_logging() -> None:
    refused(ValueError, "encoding", "TEXT", "JSON", "'XML'", logging_config={"encoding": "XML"})
    refused(ValueError, "log_level", "'LOUD'", "INFO", logging_config={"log_level": "LOUD"})
    refused(ValueError, "'level'", "Did you mean 'log_level'", logging_config={"level": "INFO"})
    refused(TypeError, "logging_config", "dict", logging_config="DEBUG")
    refused(
        ValueError, "additional_log_standard_attrs", "'colour'",
        logging_config={"additional_log_standard_attrs": ["colour"]},
    )  # fmt: skip


@covers("1.9-26")
def test_another_router() -> None:
    refused(ValueError, "router", "not supported", request_router_config={"request_router_class": "mine:Router"})
    refused(ValueError, "Did you mean", request_router_config={"request_router_klass": "mine:Router"})


@covers("1.9-27")
def test_constructor_retries() -> None:
    for value in (0, -1):
        refused(ValueError, "max_constructor_retry_count", str(value), max_constructor_retry_count=value)
    refused(TypeError, "max_constructor_retry_count", max_constructor_retry_count=1.5)


@covers("1.9-28", "1.9-29")
def test_rolling_updates() -> None:
    for value in (0, 1.1, -0.2):
        refused(ValueError, "rolling_update_percentage", str(value), rolling_update_percentage=value)
    refused(TypeError, "rolling_update_percentage", rolling_update_percentage="20%")
    for surge in (-1, 101):
        refused(ValueError, "max_surge_percent", "0", str(surge), max_surge_percent=surge)
    refused(TypeError, "max_surge_percent", max_surge_percent="all")


@covers("1.9-30", "1.9-34")
@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("num_replica", "num_replicas"),
        ("max_ongoing_request", "max_ongoing_requests"),
        ("user_configuration", "user_config"),
        ("autoscaling", "autoscaling_config"),
        ("ray_actor_option", "ray_actor_options"),
        ("health_check_period", "health_check_period_s"),
    ],
)
def test_unknown_options_name_the_nearest(wrong: str, right: str) -> None:
    refused(TypeError, f"'{wrong}'", f"Did you mean '{right}'", **{wrong: 1})


@covers("1.9-30")
def test_an_unknown_option_like_no_other() -> None:
    refused(TypeError, "'zzz'", "Known: .*num_replicas", zzz=1)
    with pytest.warns(DeprecationWarning, match=r"route_prefix.*serve.run"):  # Ray 2.6's: taken
        serve.deployment(Model).options(route_prefix="/x")
    refused(ValueError, "init_args", "bind", init_args=(1,))


@covers("1.9-02", "1.9-30")
def test_options_by_place() -> None:
    with pytest.raises(TypeError, match="by name"):
        serve.deployment(None, "name", "version", 3)
    with pytest.raises(TypeError, match="by name|class or function"):
        serve.deployment(Model).options("name")  # type: ignore[arg-type]  # that is the case


@covers("1.9-35")
def test_neither_constructed_nor_called() -> None:
    with pytest.raises(RuntimeError, match="@serve.deployment"):
        serve.Deployment(Model, {})
    with pytest.raises(RuntimeError, match=r"cannot be constructed directly.*bind"):
        serve.deployment(Model)()


@covers("1.9-38")
def test_a_function_takes_no_arguments() -> None:
    def work() -> None: ...

    with pytest.raises(ValueError, match="init_args not supported for function deployments"):
        serve.deployment(work).bind(1)
    with pytest.raises(ValueError, match="init_args not supported for function deployments"):
        serve.deployment(work).bind(model="a")
