"""`serve.batch` from its callers' side, in virtual time."""

from __future__ import annotations

import asyncio
import inspect
import pickle
from collections.abc import Awaitable
from typing import Any

import cloudpickle
import pytest

from serve_rt.batching.decorator import batch
from serve_rt.batching.queue import batch_requests
from serve_rt.context import RequestContext, current_request
from serve_rt.errors import ServeException
from tests.batching.virtual import run


async def together(*calls: Awaitable[Any], return_exceptions: bool = False) -> list[Any]:
    return list(await asyncio.gather(*calls, return_exceptions=return_exceptions))


class Doubler:
    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    @batch(max_batch_size=4, batch_wait_timeout_s=0.1)
    async def double(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        await asyncio.sleep(1)
        return [2 * item for item in items]


def test_a_full_batch_starts_at_once_and_the_rest_waits_its_time() -> None:
    async def main() -> None:
        doubler, loop = Doubler(), asyncio.get_running_loop()
        start = loop.time()
        answers = await together(*(doubler.double(item) for item in range(6)))
        assert answers == [0, 2, 4, 6, 8, 10]
        assert doubler.batches == [[0, 1, 2, 3], [4, 5]]
        assert loop.time() - start == pytest.approx(2.0)

    run(main())


def test_a_lone_item_waits_for_the_timeout_of_the_first() -> None:
    async def main() -> None:
        doubler, loop = Doubler(), asyncio.get_running_loop()
        start = loop.time()
        first = asyncio.ensure_future(doubler.double(1))
        await asyncio.sleep(0.06)
        second = asyncio.ensure_future(doubler.double(2))
        await together(first, second)
        assert doubler.batches == [[1, 2]]
        assert loop.time() - start == pytest.approx(1.1), "0.1 s from the first item, then 1 s of work"

    run(main())


def test_batches_run_side_by_side_up_to_the_limit() -> None:
    running = peak = 0

    @batch(max_batch_size=1, batch_wait_timeout_s=0, max_concurrent_batches=3)
    async def work(items: list[int]) -> list[int]:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await asyncio.sleep(1)
        running -= 1
        return items

    async def main() -> None:
        start = asyncio.get_running_loop().time()
        assert await together(*(work(item) for item in range(6))) == list(range(6))
        assert asyncio.get_running_loop().time() - start == pytest.approx(2.0)

    run(main())
    assert peak == 3


def test_zero_wait_still_takes_along_those_of_the_same_turn() -> None:
    seen: list[list[int]] = []

    @batch(max_batch_size=10, batch_wait_timeout_s=0)
    async def work(items: list[int]) -> list[int]:
        seen.append(items)
        return items

    async def main() -> None:
        await together(*(work(item) for item in range(3)))

    run(main())
    assert seen == [[0, 1, 2]]


def test_every_instance_has_its_own_queue() -> None:
    async def main() -> None:
        one, other = Doubler(), Doubler()
        await together(one.double(1), other.double(2))
        assert (one.batches, other.batches) == ([[1]], [[2]])
        one.double.set_max_batch_size(2)
        await together(*(d.double(item) for d in (one, other) for item in range(4)))
        assert one.batches[1:] == [[0, 1], [2, 3]]
        assert other.batches[1:] == [[0, 1, 2, 3]]

    run(main())


def test_an_instance_that_only_the_call_holds_lives_until_it_is_answered() -> None:
    async def main() -> None:
        assert await Doubler().double(4) == 8

    run(main())


def test_a_copy_of_an_instance_does_not_use_the_original() -> None:
    import copy

    async def main() -> None:
        one = Doubler()
        await one.double(1)
        other = copy.copy(one)
        other.batches = []
        await other.double(2)
        assert one.batches == [[1]] and other.batches == [[2]]

    run(main())


def test_cancelled_items_leave_the_queue() -> None:
    async def main() -> None:
        doubler = Doubler()
        tasks = [asyncio.ensure_future(doubler.double(item)) for item in range(3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        assert await together(tasks[0], tasks[2], doubler.double(9)) == [0, 4, 18]
        assert doubler.batches == [[0, 2, 9]]

    run(main())


def test_a_batch_nobody_waits_for_is_cancelled_and_the_next_one_starts() -> None:
    ended: list[str] = []

    @batch(max_batch_size=2, batch_wait_timeout_s=0.01)
    async def work(items: list[int]) -> list[int]:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return items

    async def main() -> None:
        start = asyncio.get_running_loop().time()
        tasks = [asyncio.ensure_future(work(item)) for item in range(2)]
        await asyncio.sleep(1)
        tasks[0].cancel()
        await asyncio.sleep(1)
        assert not ended, "one of two still waits"
        tasks[1].cancel()
        assert await work(5) == 5
        assert asyncio.get_running_loop().time() - start == pytest.approx(102.01, abs=0.1)

    run(main())
    assert ended == ["cancelled"]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ([1], "The input list has length 2 but the returned list has length 1."),
        (None, "must return a list"),
        ({1: 1, 2: 2}, "must return a list"),
        ("ab", "must return a list"),
    ],
)
def test_a_wrong_result_reaches_every_caller(result: Any, message: str) -> None:
    @batch(max_batch_size=2)
    async def work(items: list[int]) -> Any:
        return result

    async def main() -> None:
        answers = await together(work(1), work(2), return_exceptions=True)
        for answer in answers:
            assert isinstance(answer, ServeException) and message in str(answer)

    run(main())


class _Rude(BaseException):
    pass


@pytest.mark.parametrize(
    "error", [ValueError("no"), SystemExit(3), KeyboardInterrupt(), _Rude(), asyncio.CancelledError()]
)
def test_nothing_the_function_raises_wedges_the_queue(error: BaseException) -> None:
    calls = 0

    @batch(max_batch_size=2)
    async def work(items: list[int]) -> list[int]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise error
        return items

    async def main() -> None:
        answers = await together(work(1), work(2), return_exceptions=True)
        assert all(isinstance(answer, Exception) for answer in answers), answers
        if isinstance(error, ValueError):
            assert answers == [error, error]
        assert await together(work(3), work(4)) == [3, 4]

    run(main())


def test_size_function_closes_a_batch_in_order() -> None:
    """Ray puts the item that did not fit at the back of the queue; ours keeps its place."""
    seen: list[list[str]] = []

    @batch(max_batch_size=10, batch_wait_timeout_s=0.01, batch_size_fn=lambda items: sum(map(len, items)))
    async def work(items: list[str]) -> list[int]:
        seen.append(items)
        return [len(item) for item in items]

    async def main() -> None:
        assert await together(*(work("x" * size) for size in (4, 5, 6, 1, 10))) == [4, 5, 6, 1, 10]
        with pytest.raises(RuntimeError, match="greater than max_batch_size: 11 > 10"):
            await work("x" * 11)
        assert await work("ok") == 2

    run(main())
    assert [[len(item) for item in items] for items in seen] == [[4, 5], [6, 1], [10], [2]]


def test_a_size_function_that_raises_fails_its_item_alone() -> None:
    def size(items: list[int]) -> int:
        return sum(1 // item for item in items) + len(items)

    @batch(max_batch_size=10, batch_wait_timeout_s=0.01, batch_size_fn=size)
    async def work(items: list[int]) -> list[int]:
        return items

    async def main() -> None:
        answers = await together(work(1), work(0), work(2), return_exceptions=True)
        assert answers[0] == 1 and isinstance(answers[1], ZeroDivisionError) and answers[2] == 2

    run(main())


def test_several_parameters_become_several_lists() -> None:
    @batch(max_batch_size=2)
    async def add(lefts: list[int], rights: list[int]) -> list[int]:
        return [left + right for left, right in zip(lefts, rights, strict=True)]

    async def main() -> None:
        work: Any = add
        assert await together(work(1, 2), work(3, rights=4)) == [3, 7]

    run(main())


def test_a_batch_runs_under_the_latest_deadline_of_its_items() -> None:
    seen: list[Any] = []

    @batch(max_batch_size=2)
    async def work(items: list[int]) -> list[int]:
        seen.append((current_request.get(), [context and context.request_id for context in batch_requests.get()]))
        return items

    async def call(item: int, deadline: float | None) -> None:
        current_request.set(RequestContext(request_id=str(item), deadline=deadline))
        await work(item)

    async def main() -> None:
        await together(call(1, 5.0), call(2, 9.0))
        await together(call(3, 5.0), call(4, None))

    run(main())
    assert [(context.deadline, ids) for context, ids in seen] == [(9.0, ["1", "2"]), (None, ["3", "4"])]


def test_models_do_not_share_a_batch() -> None:
    seen: list[list[str]] = []

    @batch(max_batch_size=4, batch_wait_timeout_s=0.01)
    async def work(items: list[str]) -> list[str]:
        seen.append(items)
        return items

    async def call(model: str) -> None:
        current_request.set(RequestContext(multiplexed_model_id=model))
        await work(model)

    async def main() -> None:
        await together(*(call(model) for model in ("a", "b", "a", "b")))

    run(main())
    assert sorted(seen) == [["a", "a"], ["b", "b"]]


def test_setters_apply_to_what_waits() -> None:
    async def main() -> None:
        doubler, loop = Doubler(), asyncio.get_running_loop()
        doubler.double.set_batch_wait_timeout_s(50)
        start = loop.time()
        tasks = [asyncio.ensure_future(doubler.double(item)) for item in range(2)]
        await asyncio.sleep(0)
        doubler.double.set_max_batch_size(2)
        await together(*tasks)
        assert loop.time() - start == pytest.approx(1.0)

    run(main())


def test_works_in_one_event_loop_after_the_other() -> None:
    doubler = Doubler()

    async def main() -> int:
        return await doubler.double(1)

    assert run(main()) == run(main()) == 2


def test_travels_by_value() -> None:
    copied: Any = pickle.loads(cloudpickle.dumps(Doubler))
    assert run(_double(copied())) == 6


async def _double(doubler: Any) -> Any:
    return await doubler.double(3)


def test_frameworks_see_a_coroutine_function() -> None:
    assert inspect.iscoroutinefunction(Doubler().double)
    assert list(inspect.signature(Doubler().double).parameters) == ["items"]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_batch_size": 0}, ValueError),
        ({"max_batch_size": 1.5}, TypeError),
        ({"max_batch_size": "2"}, TypeError),
        ({"batch_wait_timeout_s": -1}, ValueError),
        ({"batch_wait_timeout_s": "1"}, TypeError),
        ({"max_concurrent_batches": 0}, TypeError),
        ({"batch_size_fn": 3}, TypeError),
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        batch(**options)
    assert batch(max_batch_size=2.0), "whole floats pass, as in Ray"  # type: ignore[call-overload]


def test_only_async_functions_can_be_batched() -> None:
    with pytest.raises(TypeError, match="must be 'async def'"):
        batch(max_batch_size=1)(lambda items: items)
    with pytest.raises(TypeError, match="functions or methods"):
        batch(3)  # type: ignore[call-overload]
