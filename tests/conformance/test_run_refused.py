"""What `serve.start`, `run` and their like refuse before anything is started. No cluster."""

from __future__ import annotations

from typing import Any

import pytest

import serve_rt as serve
from serve_rt.api.build import AppOptions, build
from serve_rt.config import HTTPOptions
from serve_rt.exceptions import RayServeException
from tests.conformance.bullets import covers


@serve.deployment
class Model:
    def __call__(self) -> str:
        return "answer"


@covers("1.1-04")
@pytest.mark.parametrize("name", ["http_host", "http_port", "http_middlewares"])
def test_old_http_arguments(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} is deprecated, please use serve.start\(http_options="):
        given: Any = {name: "x"}
        serve.start(**given)


@covers("1.1-05")
def test_controller_options() -> None:
    with pytest.raises(TypeError, match="controller_options must be a ControllerOptions or a dict, got int"):
        serve.start(controller_options=5)
    with pytest.raises(ValueError, match="'env'.*Did you mean 'runtime_env'|'env'.*Known"):
        serve.start(controller_options={"env": {}})
    with pytest.raises(ValueError, match="'pip'.*env_vars"):
        serve.start(controller_options={"runtime_env": {"pip": []}})


@covers("1.1-06")
def test_proxy_locations() -> None:
    with pytest.raises(ValueError, match="proxy_location must be one of Disabled, HeadOnly, EveryNode, got 'Nowhere'"):
        serve.start(proxy_location="Nowhere")


@covers("1.1-07")
@pytest.mark.parametrize(
    ("field", "kind", "words"),
    [
        ({"port": 70000}, ValueError, "port.*0 to 65535.*70000"),
        ({"port": "http"}, ValueError, "port.*'http'"),
        ({"hots": "x"}, ValueError, "'hots'.*Did you mean 'host'"),
        ({"host": 5}, TypeError, "host.*string.*5"),
        ({"keep_alive_timeout_s": -1}, ValueError, "keep_alive_timeout_s.*-1"),
        ({"request_timeout_s": "soon"}, TypeError, "request_timeout_s.*'soon'"),
        ({"root_path": "api"}, ValueError, "root_path.*'/'.*'api'"),
        ({"ssl_keyfile": "key.pem"}, ValueError, "ssl_keyfile.*ssl_certfile"),
    ],
)
def test_http_options(field: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        serve.start(http_options=field)


@covers("1.1-07")
def test_options_that_are_neither_dict_nor_class() -> None:
    for name in ("http_options", "grpc_options", "logging_config", "tracing_config"):
        wrong: Any = {name: 5}
        with pytest.raises(TypeError, match=f"{name} must be a .* or a dict, got int"):
            serve.start(**wrong)
    with pytest.raises(ValueError, match="'prot'.*Did you mean 'port'"):
        serve.start(grpc_options={"prot": 1})
    with pytest.raises(ValueError, match="log_level 'LOUD'.*INFO"):
        serve.start(logging_config={"log_level": "LOUD"})


@covers("1.1-08")
def test_http_options_of_old() -> None:
    with pytest.raises(ValueError, match="middlewares.*FastAPI"):
        HTTPOptions(middlewares=(object(),))
    with pytest.raises(ValueError, match="num_cpus"):
        HTTPOptions(num_cpus=1)
    with pytest.warns(DeprecationWarning, match="proxy_location"):
        assert HTTPOptions(location="NoServer").proxy_location() == "Disabled"
    with pytest.warns(DeprecationWarning), pytest.raises(ValueError, match="'Somewhere'.*|EveryNode"):
        HTTPOptions(location="Somewhere")
    assert HTTPOptions(request_timeout_s=-1).request_timeout_s is None


@covers("1.1-09")
def test_unknown_keywords() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'http_option'.*Did you mean 'http_options'"):
        serve.start(http_option={})


@covers("1.1-10")
def test_tracing() -> None:
    with pytest.raises(ValueError, match="sampling_ratio.*0 to 1.*2"):
        serve.start(tracing_config={"sampling_ratio": 2})
    with pytest.raises(ValueError, match="'sample'"):
        serve.start(tracing_config={"sample": 1})


@covers("1.2-06")
@pytest.mark.parametrize("name", ["", None, 5])
def test_empty_names(name: Any) -> None:
    with pytest.raises(RayServeException, match="Application name must a non-empty string"):
        serve.run(Model.bind(), name=name)


@covers("1.2-06")
def test_names_with_separators() -> None:
    for name in ("a#b", "a/b"):
        with pytest.raises(ValueError, match=f"{name!r}.*must not contain"):
            serve.run(Model.bind(), name=name)


@covers("1.2-07")
@pytest.mark.parametrize("target", [Model, "module:app", None, lambda: None, {"app": 1}])
def test_targets_that_are_no_application(target: Any) -> None:
    with pytest.raises(TypeError, match=r"`serve.run` expects an `Application` returned by `Deployment.bind\(\)`"):
        serve.run(target)


@covers("1.2-07")
def test_a_deployment_that_was_not_bound() -> None:
    with pytest.raises(TypeError, match=r"Model\.bind"):
        serve.run(Model)  # type: ignore[arg-type]  # that is the case


@covers("1.2-08")
@pytest.mark.parametrize(
    ("prefix", "words"),
    [
        ("api", "must start with '/'"),
        ("", "must start"),
        ("/api/", "trailing '/'"),
        ("/a/{b}", "wildcards"),
        (5, "start"),
    ],
)
def test_prefixes(prefix: Any, words: str) -> None:
    with pytest.raises(ValueError, match=f"route_prefix.*{words}"):
        serve.run(Model.bind(), route_prefix=prefix)


@covers("1.2-08")
def test_prefixes_of_several() -> None:
    """The second is wrong: the first is not deployed either."""
    targets = [serve.RunTarget(Model.bind(), "one"), serve.RunTarget(Model.bind(), "two", "two")]
    with pytest.raises(ValueError, match="'two', must start with '/'"):
        serve.run_many(targets)


@covers("1.2-09", "1.3-01")
def test_several_that_share_a_name_or_prefix() -> None:
    with pytest.raises(RayServeException, match="'one'.*twice|name.*'one'"):
        serve.run_many([serve.RunTarget(Model.bind(), "one", "/a"), serve.RunTarget(Model.bind(), "one", "/b")])
    with pytest.raises(RayServeException, match="Prefix /a.*'?one'?"):
        serve.run_many([serve.RunTarget(Model.bind(), "one", "/a"), serve.RunTarget(Model.bind(), "two", "/a")])


@covers("1.2-11")
def test_two_ingresses() -> None:
    async def asgi(scope: Any, receive: Any, send: Any) -> None: ...

    @serve.deployment
    @serve.ingress(asgi)
    class First:
        def __init__(self, *others: Any) -> None: ...

    @serve.deployment
    @serve.ingress(asgi)
    class Second: ...

    with pytest.raises(RayServeException, match="Found multiple FastAPI deployments.*Second.*First"):
        build(First.bind(Second.bind()), AppOptions("shop"))


@covers("1.3-03")
def test_no_targets() -> None:
    with pytest.raises(ValueError, match="No applications provided"):
        serve.run_many([])


@covers("1.8-02")
def test_no_replica_here() -> None:
    with pytest.raises(RayServeException, match=r"get_replica_context\(\).*only be called from within a deployment"):
        serve.get_replica_context()


@covers("1.8-04", "1.8-06")
def test_no_request_here() -> None:
    assert serve.get_multiplexed_model_id() == ""
    assert serve.get_trace_context() is None


@covers("1.8-05")
def test_deployment_actors() -> None:
    with pytest.raises(ValueError, match="'counter' is not registered.*deployment"):
        serve.get_deployment_actor("counter")
    with pytest.raises(RayServeException, match="deployment"):
        serve.get_deployment_actor_context()


@covers("1.10-07")
def test_user_config_of_a_function() -> None:
    @serve.deployment(user_config={"a": 1})
    def work() -> None: ...

    with pytest.raises(ValueError, match="user_config.*function"):
        build(work.bind(), AppOptions())
