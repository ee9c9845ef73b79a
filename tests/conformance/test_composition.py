"""Applications made of several deployments, and functions that build them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel

import serve_rt as serve
from serve_rt.api.builder import build_with
from serve_rt.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RayServeException,
    ReplicaUnavailableError,
    RequestCancelledError,
    gRPCStatusError,
)
from tests.conformance.apps_basic import Outer
from tests.conformance.apps_handles import Front, Narrow, Top, Worker
from tests.conformance.asking import ANSWER_S, Cluster
from tests.conformance.bullets import covers


@pytest.fixture(scope="module", autouse=True)
def top(cluster: Cluster) -> Iterator[Any]:
    worker = Worker.bind()
    middle = Front.bind(worker, {"again": [worker, worker]})
    yield serve.run(Top.bind(middle), name="tower", route_prefix=None)
    serve.delete("tower", _blocking=False)


@covers("1.17-02")
def test_bound_once_however_often_it_is_named() -> None:
    front = serve.get_deployment_handle("Front", "tower")
    assert front.same_replica.remote().result(timeout_s=ANSWER_S)
    assert sorted(serve.status().applications["tower"].deployments) == ["Front", "Top", "Worker"]


@covers("1.17-07")
def test_a_stream_through_three_deployments(top: Any) -> None:
    stream = top.relay.options(stream=True).remote(150)
    assert list(stream) == [10 * number + 1 for number in range(150)]


class Arguments(BaseModel):
    label: str
    count: int = 1


@dataclass
class PlainArguments:
    label: str


def by_dict(args: dict[str, str]) -> Any:
    return Outer.bind(label=args["label"])


def by_model(args: Arguments) -> Any:
    assert isinstance(args, Arguments) and args.count == 1
    return Outer.bind(label=args.label)


def by_dataclass(args: PlainArguments) -> Any:
    assert isinstance(args, PlainArguments)
    return Outer.bind(label=args.label)


def by_nothing() -> Any:
    return Outer.bind(label="given")


@covers("1.17-03")
@pytest.mark.parametrize("builder", [by_dict, by_model, by_dataclass, by_nothing])
def test_builders(cluster: Cluster, builder: Any) -> None:
    application = build_with(builder, {} if builder is by_nothing else {"label": "given"})
    handle = serve.run(application, name="built", route_prefix=None)
    assert handle.get_label.remote().result(timeout_s=ANSWER_S) == "given"
    serve.delete("built", _blocking=False)


@covers("1.17-04")
def test_builders_that_cannot_be() -> None:
    def two(args: dict[str, str], more: int) -> Any:
        raise AssertionError("never called")

    def nothing(args: dict[str, str]) -> Any:
        return None

    def unbound(args: dict[str, str]) -> Any:
        return Outer

    with pytest.raises(TypeError, match="exactly one parameter.*'two' takes 2"):
        build_with(two, {})
    with pytest.raises(TypeError, match=r"must return an `Application`.*'nothing' returned a NoneType"):
        build_with(nothing, {})
    with pytest.raises(TypeError, match=r"must return an `Application`.*'unbound' returned a Deployment"):
        build_with(unbound, {})
    with pytest.raises(TypeError, match=r"Arguments \{'a': '1'\} were given, but 'by_nothing' takes none"):
        build_with(by_nothing, {"a": "1"})
    with pytest.raises(ValueError, match="label"):
        build_with(by_model, {})


# --- errors -------------------------------------------------------------------------------------------------------


@covers("1.18-02")
def test_a_full_queue_by_handle_and_over_http(cluster: Cluster) -> None:
    narrow = serve.run(Narrow.bind(), name="full", route_prefix=None)
    running, waiting = narrow.wait.remote(), None
    with pytest.raises(TimeoutError):
        running.result(timeout_s=0.2)
    waiting = narrow.wait.remote()
    with pytest.raises(TimeoutError):
        waiting.result(timeout_s=0.2)
    with pytest.raises(BackPressureError) as caught:
        narrow.wait.remote().result(timeout_s=ANSWER_S)
    error = caught.value
    assert (error.num_queued_requests, error.max_queued_requests, error.status_code) == (1, 1, 503)
    assert (
        str(error)
        == error.message
        == ("Request dropped due to backpressure (num_queued_requests=1, max_queued_requests=1).")
    )
    waiting.cancel()
    running.cancel()
    serve.delete("full", _blocking=False)


@covers("1.18-03")
def test_an_unavailable_deployment_is_named() -> None:
    nobody = serve.handle.DeploymentHandle[Any]("Ghost", "nowhere")
    with pytest.raises(DeploymentUnavailableError) as caught:
        nobody.remote().result(timeout_s=ANSWER_S)
    assert "name='Ghost', app='nowhere'" in caught.value.message
    assert str(caught.value.deployment_id) == "Deployment(name='Ghost', app='nowhere')"
    plain = DeploymentUnavailableError("Deployment(name='x', app='y')")
    assert plain.message == "Deployment(name='x', app='y') is unavailable because it failed to deploy."


@covers("1.18-01", "1.18-04", "1.18-05", "1.18-06")
@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (
            BackPressureError(3, 2, 429, 1.5),
            ("num_queued_requests", "max_queued_requests", "status_code", "retry_after_s"),
        ),
        (DeploymentUnavailableError("d", "is away"), ("deployment_id", "message")),
        (ReplicaUnavailableError("a#d#r"), ("replica_id",)),
        (RequestCancelledError("req-1"), ("request_id",)),
        (gRPCStatusError(KeyError("k"), 5, "not there"), ("code", "details")),
        (RayServeException("in general"), ()),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_errors_keep_what_they_say_over_a_pickle(error: Exception, kept: tuple[str, ...]) -> None:
    import pickle

    again = pickle.loads(pickle.dumps(error))
    assert isinstance(error, RayServeException) and type(again) is type(error) and str(again) == str(error)
    for name in kept:
        assert getattr(again, name) == getattr(error, name)


@covers("1.18-04", "1.18-05")
def test_errors_say_which_one() -> None:
    assert "a#d#r" in str(ReplicaUnavailableError("a#d#r")) and "req-1" in str(RequestCancelledError("req-1"))
    original = KeyError("k")
    wrapped = gRPCStatusError(original, 5, "not there")
    assert wrapped.original_exception is original and (wrapped.code, wrapped.details) == (5, "not there")
