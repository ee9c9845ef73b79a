"""`serve.start`, `run`, `run_many`, `delete`, `status` and handles by name, on the shared cluster."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import pytest

import serve_rt as serve
from serve_rt.config import HTTPOptions, LoggingConfig, gRPCOptions
from serve_rt.exceptions import RayServeException
from serve_rt.schema import ApplicationStatus, DeploymentStatus
from tests.cluster.processes import eventually
from tests.conformance.apps_basic import Broken, Inner, Outer, async_function, function
from tests.conformance.asking import ANSWER_S, Cluster, call
from tests.conformance.bullets import covers


@pytest.fixture(scope="module", autouse=True)
def shop(cluster: Cluster) -> Iterator[list[Any]]:
    """Three applications side by side."""
    targets = [
        serve.RunTarget(Outer.bind(Inner.bind(100), label="shop"), name="shop", route_prefix="/shop"),
        serve.RunTarget(Outer.bind(label="silent"), name="silent", route_prefix=None),
        serve.RunTarget(function.bind(), name="function", route_prefix="/shop/function"),
    ]
    yield serve.run_many(targets)
    for target in targets:
        serve.delete(target.name, _blocking=False)


@covers("1.1-01", "1.2-01")
def test_it_answers(cluster: Cluster) -> None:
    assert cluster.get("/-/healthz").status == 200
    assert cluster.get("/shop").json()["label"] == "shop"
    assert cluster.get("/-/routes").json() | {"/shop": "shop"} == cluster.get("/-/routes").json()


@covers("1.1-02")
def test_starting_again(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    serve.start()
    assert "ignored" not in caplog.text
    serve.start(http_options={"port": 1, "root_path": "/x"})
    assert cluster.http_address in caplog.text and "127.0.0.1:1" in caplog.text and "root_path" in caplog.text
    assert cluster.get("/shop").status == 200


@covers("1.1-03")
def test_options_as_classes_and_dicts(cluster: Cluster) -> None:
    serve.start(http_options=HTTPOptions(), grpc_options=gRPCOptions(), logging_config=LoggingConfig())
    serve.start("EveryNode", {"host": "127.0.0.1"}, {"port": 9000}, {"encoding": "JSON"}, {"enabled": False}, {})


@covers("1.2-01", "1.3-01")
def test_handles_in_the_order_of_the_targets(shop: list[Any]) -> None:
    assert [handle.app_name for handle in shop] == ["shop", "silent", "function"]
    assert [handle.deployment_name for handle in shop] == ["Outer", "Outer", "function"]
    assert shop[1].get_label.remote().result(timeout_s=ANSWER_S) == "silent"
    assert shop[2].remote().result(timeout_s=ANSWER_S) == "function"


@covers("1.2-04")
def test_without_a_route(cluster: Cluster) -> None:
    assert call("silent", "get_label") == "silent"
    assert "silent" not in cluster.get("/-/routes").json().values()


@covers("1.2-12")
def test_the_longest_prefix_wins(cluster: Cluster) -> None:
    assert cluster.get("/shop/function").text == "function GET"
    assert cluster.get("/shop/functional").json()["label"] == "shop"
    nested = cluster.get("/shop/a/b").json()
    assert (nested["path"], nested["root_path"]) == ("/shop/a/b", "/shop")
    assert cluster.get("/shopping").status == 404


@covers("1.2-05", "1.2-12")
def test_the_same_name_again_is_an_update(cluster: Cluster) -> None:
    serve.run(Outer.bind(label="one"), name="again", route_prefix="/again")
    others = call("shop", "pid"), call("silent", "pid")
    handle = serve.run(Outer.bind(label="two"), name="again", route_prefix="/again")
    assert handle.get_label.remote().result(timeout_s=ANSWER_S) == "two"
    assert cluster.get("/again").json()["label"] == "two"
    assert (call("shop", "pid"), call("silent", "pid")) == others
    serve.run(Outer.bind(label="two"), name="again", route_prefix="/moved")
    assert cluster.get("/moved").json()["label"] == "two"
    eventually(lambda: cluster.get("/again").status == 404, 10, "the old prefix is gone")
    serve.delete("again")


@covers("1.2-09")
def test_a_prefix_that_is_taken(cluster: Cluster) -> None:
    with pytest.raises(RayServeException, match=r"/shop.*(used by|belongs to).*shop"):
        serve.run(function.bind(), name="thief", route_prefix="/shop")
    assert "thief" not in serve.status().applications
    assert cluster.get("/shop").json()["app"] == "shop"


@covers("1.2-10", "1.6-05")
def test_a_failed_deploy() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)Deploying application broken failed: .*the weights are missing"):
        serve.run(Broken.bind(), name="broken", route_prefix="/broken")
    status = serve.status().applications["broken"]
    assert status.status == ApplicationStatus.DEPLOY_FAILED == "DEPLOY_FAILED"
    assert "the weights are missing" in status.message
    assert status.deployments["Broken"].status == DeploymentStatus.DEPLOY_FAILED
    serve.delete("broken")


@covers("1.2-13")
def test_default_name_and_prefix(cluster: Cluster) -> None:
    handle = serve.run(async_function.bind())
    assert handle.app_name == "default"
    assert cluster.post("/", "x").json() == {"said": '"x"'}
    assert cluster.ask("/any/where", method="PUT", body=b"y").json() == {"said": "y"}
    serve.delete("default")
    assert cluster.get("/").status == 404


@covers("1.3-02")
def test_run_targets() -> None:
    target = serve.RunTarget(function.bind())
    assert (target.name, target.route_prefix, target.logging_config) == ("default", "/", None)
    assert target.external_scaler_enabled is False
    with pytest.raises(dataclasses.FrozenInstanceError):
        target.name = "other"  # type: ignore[misc]  # that is the case


@covers("1.3-04", "1.3-05")
def test_not_waiting() -> None:
    target = serve.RunTarget(Outer.bind(label="later"), name="later", route_prefix="/later")
    (handle,) = serve.run_many([target], wait_for_applications_running=False)
    assert handle.get_label.remote().result(timeout_s=ANSWER_S) == "later", "a call waits until it runs"
    handle = serve._run(Outer.bind(label="again"), name="later", route_prefix="/later", _blocking=False)
    eventually(lambda: handle.get_label.remote().result(timeout_s=ANSWER_S) == "again", ANSWER_S, "the update arrived")
    assert len(serve._run_many([target])) == 1
    serve.delete("later", _blocking=False)
    eventually(lambda: "later" not in serve.status().applications, ANSWER_S, "deleted in its own time")


@covers("1.5-01", "1.5-02", "1.5-04")
def test_delete(cluster: Cluster) -> None:
    serve.run(function.bind(), name="short", route_prefix="/short")
    assert cluster.get("/short").status == 200
    serve.delete("short")
    assert "short" not in serve.status().applications
    assert cluster.get("/short").status == 404
    serve.delete("short")
    serve.delete("never there")


@covers("1.6-02", "1.6-03", "1.6-04")
def test_status() -> None:
    status = serve.status()
    assert set(status.applications) >= {"shop", "silent", "function"}
    assert list(status.proxies.values()) == ["HEALTHY"]
    shop = status.applications["shop"]
    assert (shop.status, shop.message) == ("RUNNING", "")
    assert abs(shop.last_deployed_time_s - time.time()) < 600
    assert set(shop.deployments) == {"Outer", "Inner"}
    outer = shop.deployments["Outer"]
    assert (outer.status, outer.replica_states, outer.message) == ("HEALTHY", {"RUNNING": 1}, "")
    assert outer.status_trigger in ("CONFIG_UPDATE_COMPLETED", "UPSCALE_COMPLETED")
    assert status.target_capacity is None


@covers("1.7-01")
def test_get_app_handle() -> None:
    handle = serve.get_app_handle("shop")
    assert (handle.deployment_name, handle.app_name) == ("Outer", "shop")
    assert handle.get_label.remote().result(timeout_s=ANSWER_S) == "shop"


@covers("1.7-02")
def test_get_app_handle_of_nobody() -> None:
    with pytest.raises(RayServeException, match="Application 'nobody' does not exist"):
        serve.get_app_handle("nobody")


@covers("1.7-03")
def test_get_deployment_handle() -> None:
    assert serve.get_deployment_handle("Inner", "shop").add.remote(1).result(timeout_s=ANSWER_S) == 101
    assert serve.get_deployment_handle("Inner", app_name="shop").app_name == "shop"


@covers("1.7-04", "1.17-05")
def test_handles_by_name_inside_a_replica() -> None:
    assert call("shop", "neighbour", "Inner", None, 5) == 105
    assert call("silent", "neighbour", "Inner", "shop", 6) == 106
    assert call("silent", "app_handle", "shop") == "shop"


@covers("1.7-04")
def test_handles_by_name_on_the_loop_of_a_replica() -> None:
    assert call("shop", "neighbour_on_the_loop", "Inner", None, 5) == 105


@covers("1.7-05")
def test_a_handle_without_an_application() -> None:
    with pytest.raises(RayServeException, match="specify an application name"):
        serve.get_deployment_handle("Inner")


@covers("1.7-06")
def test_handles_of_deployments_that_are_not_there() -> None:
    with pytest.raises(KeyError, match=r"Deployment\(name='x', app='shop'\) does not exist"):
        serve.get_deployment_handle("x", "shop")
    with pytest.raises(KeyError, match=r"Deployment\(name='gone', app='shop'\) does not exist"):
        call("shop", "missing", "gone")


@covers("1.7-07")
def test_handles_that_ask_nobody() -> None:
    assert serve.get_deployment_handle("x", "y", _check_exists=False).deployment_name == "x"


@covers("1.2-14")
@pytest.mark.parametrize("name", ["SERVE_FORCE_LOCAL_TESTING_MODE", "RAY_SERVE_FORCE_LOCAL_TESTING_MODE"])
def test_local_testing_by_environment_takes_the_handles_only_until_the_next_run(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with monkeypatch.context() as changed:
        changed.setenv(name, "1")
        assert serve.run(function.bind(), name="local").remote().result(timeout_s=ANSWER_S) == "function"
        assert "local" not in serve.status().applications
    serve.run(Outer.bind(label="silent"), name="silent", route_prefix=None)
    assert call("silent", "get_label") == "silent"
