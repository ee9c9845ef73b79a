"""What goes wrong says what, where and how to mend it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import serve_rt as serve
from serve_rt.exceptions import DeploymentUnavailableError, RayServeException
from tests.conformance.apps_routing import Notebook
from tests.conformance.asking import ANSWER_S, Cluster
from tests.conformance.bullets import covers


@pytest.fixture(scope="module")
def handle(cluster: Cluster) -> Iterator[Any]:
    yield serve.run(Notebook.bind(), name="bad-input", route_prefix=None)
    serve.delete("bad-input", _blocking=False)


@covers("10.1-02")
def test_an_argument_that_cannot_travel(handle: Any) -> None:
    with pytest.raises(TypeError, match=r"(?s)argument 1 of type lock: .*Pass plain data"):
        handle.exactly_two.remote(1, threading.Lock())
    with pytest.raises(TypeError, match=r"(?s)argument 'two' of type .*lock"):
        handle.exactly_two.remote(1, two=[threading.Lock()])


@covers("10.1-03")
def test_code_that_cannot_travel(cluster: Cluster) -> None:
    lock = threading.Lock()

    @serve.deployment
    class Locked:
        def __call__(self) -> str:
            with lock:
                return "locked"

    with pytest.raises(TypeError, match=r"(?s)Could not serialize the deployment.*Locked.*lock"):
        serve.run(Locked.bind(), name="locked", route_prefix=None)
    with pytest.raises(TypeError, match=r"(?s)Could not serialize the deployment.*Notebook.*lock"):
        serve.run(Notebook.bind(threading.Lock()), name="locked", route_prefix=None)


@covers("10.1-04")
def test_an_answer_that_cannot_travel(handle: Any) -> None:
    with pytest.raises((TypeError, RayServeException)) as caught:
        handle.unspeakable.remote().result(timeout_s=ANSWER_S)
    assert "unspeakable" in str(caught.value) and "generator" in str(caught.value), str(caught.value)


@covers("10.1-05")
def test_arguments_that_do_not_fit(handle: Any) -> None:
    with pytest.raises(TypeError, match=r"exactly_two\(\) missing 1 required positional argument: 'two'"):
        handle.exactly_two.remote(1).result(timeout_s=ANSWER_S)
    with pytest.raises(TypeError, match="unexpected keyword argument 'three'"):
        handle.exactly_two.remote(1, 2, three=3).result(timeout_s=ANSWER_S)


@covers("10.1-06")
def test_a_handle_of_nothing(cluster: Cluster) -> None:
    handle = serve.get_deployment_handle("Nothing", "nowhere", _check_exists=False)
    began = time.monotonic()
    with pytest.raises(DeploymentUnavailableError, match=r"name='Nothing', app='nowhere'.*never deployed"):
        handle.remote().result(timeout_s=ANSWER_S)
    assert time.monotonic() - began < 10
