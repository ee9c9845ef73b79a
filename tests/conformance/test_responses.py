"""`DeploymentResponse` and `DeploymentResponseGenerator`: what calls answer."""

from __future__ import annotations

import asyncio
import gc
import pickle
import traceback
from collections.abc import Iterator
from typing import Any

import pytest

import serve_rt as serve
from serve_rt.exceptions import RayServeException, RequestCancelledError
from tests.cluster.processes import eventually
from tests.conformance.apps_handles import Front, Narrow, OddError, Worker
from tests.conformance.asking import ANSWER_S, Cluster
from tests.conformance.bullets import covers


@pytest.fixture(scope="module", autouse=True)
def front(cluster: Cluster) -> Iterator[Any]:
    yield serve.run(Front.bind(Worker.bind()), name="responses", route_prefix=None)
    serve.delete("responses", _blocking=False)


@pytest.fixture(scope="module")
def worker(front: Any) -> Any:
    return serve.get_deployment_handle("Worker", "responses")


def _noted(worker: Any, note: str) -> None:
    eventually(lambda: note in worker.noted.remote().result(timeout_s=ANSWER_S), ANSWER_S, note)


@covers("1.15-01")
def test_awaited_many_times(worker: Any) -> None:
    async def main() -> None:
        response = worker.echo.remote([1])
        first, second = await response, await response
        assert first is second and first[0] == ([1],)
        assert all(one is first for one in await asyncio.gather(response, response))

    asyncio.run(main())


@covers("1.15-02")
def test_a_timeout_leaves_the_request_alone(worker: Any) -> None:
    response = worker.wait.remote("patient")
    with pytest.raises(TimeoutError, match="the request goes on"):
        response.result(timeout_s=0.1)
    worker.let_go.remote("patient").result(timeout_s=ANSWER_S)
    assert response.result(timeout_s=ANSWER_S) == response.result() == "patient"


@covers("1.15-03", "1.16-02")
def test_what_blocks_is_refused_in_a_loop(front: Any) -> None:
    said = front.wrong_in_a_loop.remote().result(timeout_s=ANSWER_S)
    assert len(said) == 3
    assert all("should not be called from within an `asyncio` event loop" in one for one in said)
    assert "await response" in said[0] and "async for" in said[1] and "results_async" in said[2]


@covers("1.15-04")
@pytest.mark.parametrize("method", ["fail", "fail_in_a_thread"])
def test_the_users_own_exception(worker: Any, method: str) -> None:
    response = worker.options(method_name=method).remote("a word")
    for _ in range(2):
        with pytest.raises(OddError, match="a word") as caught:
            response.result(timeout_s=ANSWER_S)
        assert isinstance(caught.value, ValueError) and caught.value.code in (7, 8)
        shown = "".join(traceback.format_exception(caught.value))
        assert f"in {method}" in shown and "apps_handles.py" in shown, "the remote traceback"


@covers("1.15-05", "1.15-06")
def test_cancelled_while_it_runs(worker: Any) -> None:
    response = worker.wait.remote("cut")
    _noted(worker, "began cut")
    assert not response.cancelled()
    response.cancel()
    assert response.cancelled()
    with pytest.raises(RequestCancelledError, match=response.request_id):
        response.result(timeout_s=ANSWER_S)
    _noted(worker, "cancelled cut")


@covers("1.15-05")
def test_cancelled_before_it_starts(cluster: Cluster) -> None:
    narrow = serve.run(Narrow.options(max_queued_requests=10).bind(), name="narrow", route_prefix=None)
    first = narrow.wait.remote()
    queued = narrow.wait.remote()
    with pytest.raises(TimeoutError):
        queued.result(timeout_s=0.2)
    queued.cancel()
    with pytest.raises(RequestCancelledError):
        queued.result(timeout_s=ANSWER_S)
    first.cancel()
    assert narrow.let_go.remote().result(timeout_s=ANSWER_S) is None, "the slot is free again"
    serve.delete("narrow", _blocking=False)


@covers("1.15-05")
def test_children_are_cancelled_too(front: Any, worker: Any) -> None:
    response = front.wait_below.remote("child")
    _noted(worker, "began child")
    response.cancel()
    _noted(worker, "cancelled child")


@covers("1.15-06")
def test_ids_and_answered_is_not_cancelled(worker: Any) -> None:
    one, two = worker.who.remote(), worker.who.remote()
    assert one.request_id and one.request_id != two.request_id and one.by_reference
    one.result(timeout_s=ANSWER_S)
    one.cancel()
    assert not one.cancelled() and one.result(timeout_s=ANSWER_S)


@covers("1.15-07")
def test_neither_can_be_pickled(worker: Any) -> None:
    with pytest.raises(RayServeException, match="`DeploymentResponse` is not serializable"):
        pickle.dumps(worker.who.remote())
    with pytest.raises(RayServeException, match="`DeploymentResponseGenerator` is not serializable"):
        pickle.dumps(worker.count.options(stream=True).remote(1))


# --- streams ------------------------------------------------------------------------------------------------------


@covers("1.16-01")
@pytest.mark.parametrize("method", ["count", "count_in_a_thread"])
def test_for_and_async_for(worker: Any, method: str) -> None:
    handle = worker.options(method_name=method, stream=True)
    assert list(handle.remote(200)) == list(range(200)), "more than is read ahead"

    async def main() -> list[int]:
        return [number async for number in handle.remote(3)]

    assert asyncio.run(main()) == [0, 1, 2]


@covers("1.16-02")
def test_a_stream_is_no_value(worker: Any) -> None:
    stream = worker.count.options(stream=True).remote(1)
    with pytest.raises(TypeError, match=r"doesn't support `.result\(\)`"):
        stream.result()

    async def main() -> None:
        with pytest.raises(TypeError, match="cannot be awaited directly"):
            await stream

    asyncio.run(main())
    assert next(stream) == 0


@covers("1.16-03")
@pytest.mark.parametrize("method", ["count", "count_in_a_thread"])
def test_a_generator_without_stream(worker: Any, method: str) -> None:
    said = rf"Method '{method}' returned a generator\. You must use `handle\.options\(stream=True\)`"
    with pytest.raises(TypeError, match=said):
        worker.options(method_name=method).remote(1).result(timeout_s=ANSWER_S)


@covers("1.16-04")
def test_a_stream_of_what_is_no_generator(worker: Any) -> None:
    with pytest.raises(TypeError, match="'who'.*did not return a generator"):
        next(worker.who.options(stream=True).remote())


@covers("1.16-05")
@pytest.mark.parametrize("way", ["cancelled", "closed", "dropped"])
def test_who_goes_away_ends_the_generator(worker: Any, way: str) -> None:
    stream = worker.count_for_ever.options(stream=True).remote(way)
    assert [next(stream), next(stream)] == [0, 1]
    if way == "cancelled":
        stream.cancel()
        assert stream.cancelled()
    elif way == "closed":
        stream.close()
    del stream
    gc.collect()
    _noted(worker, f"closed {way}")


@covers("1.16-06")
def test_an_exception_comes_after_the_items(worker: Any) -> None:
    got = []
    with pytest.raises(OddError, match="broke"):
        for number in worker.count_until_it_breaks.options(stream=True).remote(3):
            got.append(number)
    assert got == [0, 1, 2]
