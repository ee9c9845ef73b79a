"""Handles and responses in the hands of real replicas, threads and loops; and what is said when an app is gone."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import serve_rt as serve
from serve_rt.errors import DeploymentUnavailableError, RequestCancelledError, ServeException
from serve_rt.handle import DeploymentHandle
from tests.handle.choice_apps import Front, Node

pytestmark = pytest.mark.cluster
LIGHT = {"num_cpus": 0.1}


@pytest.fixture(scope="module")
def front(own_cluster: str) -> Any:
    node = Node.options(ray_actor_options=LIGHT, max_ongoing_requests=20).bind()
    return serve.run(Front.options(ray_actor_options=LIGHT).bind(node), name="pair", route_prefix=None)


@pytest.fixture(scope="module")
def node(front: Any) -> Any:
    return serve.get_deployment_handle("_Node", "pair")


def test_a_handle_is_an_argument_like_any_other(front: Any, node: Any) -> None:
    told = front.call.remote(node, "tell", "by argument").result(timeout_s=10)
    assert told[1] == "by argument"
    streaming = node.options(method_name="tell", session_id="s")
    assert node.echo.remote([streaming]).result(timeout_s=10)[0][0][0] == streaming
    assert front.call.remote(front, "call", node, "tell", "deeper").result(timeout_s=10)[1] == "deeper"


def test_responses_as_arguments_at_the_top_and_nowhere_else(front: Any, node: Any) -> None:
    first = node.echo.remote(1)
    args, kwargs = node.echo.remote(first, node.tell.remote("x"), again=first).result(timeout_s=10)
    assert (args[0], args[1][1], kwargs["again"]) == (((1,), {}), "x", ((1,), {}))
    for nested in ([first], {"x": first}, {"x": [(first,)]}):
        with pytest.raises(ServeException, match="`DeploymentResponse` is not serializable"):
            node.echo.remote(nested)
    assert "ServeException: `DeploymentResponse` is not serializable" in front.nested.remote().result(timeout_s=10)
    with pytest.raises(RuntimeError, match="Streaming deployment handle results cannot be passed"):
        node.echo.remote(node.count.options(stream=True).remote(2))
    with pytest.raises(LookupError, match="upstream"):
        node.echo.remote(node.fail.remote("upstream")).result(timeout_s=10)


def test_one_response_awaited_in_many_threads_and_loops(node: Any) -> None:
    response = node.hold.remote()
    barrier = threading.Barrier(9)

    def in_loop() -> Any:
        async def both() -> Any:
            return await asyncio.gather(_await(response), _await(response))

        barrier.wait(10)
        return asyncio.run(both())[0]

    def in_thread() -> Any:
        barrier.wait(10)
        return response.result(timeout_s=20)

    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(step) for step in (in_loop, in_thread) * 4]
        barrier.wait(10)
        node.let_go.remote().result(timeout_s=10)
        assert len({answer.result(20) for answer in answers}) == 1


async def _await(response: Any) -> Any:
    return await response


def test_cancelled_is_cancelled_everywhere(node: Any) -> None:
    response = node.hang.remote()
    with pytest.raises(TimeoutError):
        response.result(timeout_s=0.2)
    assert not response.cancelled()
    response.cancel()
    assert response.cancelled()
    with pytest.raises(RequestCancelledError):
        response.result(timeout_s=5)
    with pytest.raises(RequestCancelledError):
        asyncio.run(_await(response))
    done = node.who.remote()
    done.result(timeout_s=10)
    done.cancel()
    assert not done.cancelled() and done.result(timeout_s=1)
    waiting = node.echo.remote(node.hang.remote())
    waiting.cancel()
    with pytest.raises(RequestCancelledError):
        waiting.result(timeout_s=5)


def test_a_handle_is_initialized_once(node: Any) -> None:
    fresh: DeploymentHandle[Any] = DeploymentHandle("_Node", "pair")
    assert not fresh.is_initialized
    fresh._init(_prefer_local_routing=True)
    assert fresh.is_initialized
    used = node.who
    used.remote().result(timeout_s=10)
    for handle in (fresh, used):
        with pytest.raises(RuntimeError, match="already been initialized"):
            handle._init()
    assert fresh.running_replicas_populated()
    assert not DeploymentHandle("_Node", "nobody").running_replicas_populated()


def test_an_app_that_is_gone_says_so_at_once(node: Any) -> None:
    node.who.remote().result(timeout_s=10)  # this process follows the routes
    gone = serve.run(Node.options(ray_actor_options=LIGHT).bind(), name="gone", route_prefix=None)
    brief = Node.options(ray_actor_options=LIGHT, graceful_shutdown_timeout_s=0.5)
    used = serve.run(brief.bind(), name="used", route_prefix=None)
    used.who.remote().result(timeout_s=10)
    running = used.hang.remote()
    serve.delete("gone")
    serve.delete("used")
    for handle in (gone, used):
        began_s = time.monotonic()
        with pytest.raises(DeploymentUnavailableError, match=r"app='(gone|used)'\).*(deleted|does not exist)"):
            handle.who.remote().result(timeout_s=10)
        assert time.monotonic() - began_s < 2.5, "not the patience that is kept for what was never there"
    with pytest.raises(ServeException):
        running.result(timeout_s=30)
    with pytest.raises(ServeException, match="Application 'gone' does not exist"):
        serve.get_app_handle("gone")
