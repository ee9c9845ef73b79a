"""`@serve.batch` as its callers see it: outside of replicas and in virtual time; what it refuses is in its own file."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator
from typing import Any

import numpy
import pytest

import serve_rt as serve
from serve_rt.batching.queue import batch_requests
from serve_rt.context import RequestContext, current_request
from serve_rt.exceptions import RayServeException
from tests.batching.virtual import run
from tests.conformance.bullets import covers


class Recorder:
    """Keeps its batches; one second each."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []

    @serve.batch(max_batch_size=3, batch_wait_timeout_s=0.5)
    async def work(self, items: list[Any]) -> list[Any]:
        self.batches.append(items)
        await asyncio.sleep(1)
        return [f"<{item}>" for item in items]

    @serve.batch
    async def plain(self, items: list[Any]) -> list[Any]:
        self.batches.append(items)
        return items


class Louder(Recorder):
    """Goes through the queue of its parent."""

    @serve.batch(max_batch_size=3, batch_wait_timeout_s=0.5)
    async def work(self, items: list[Any]) -> list[Any]:
        return list(await asyncio.gather(*(super(Louder, self).work(f"{item}!") for item in items)))


def gathered(*calls: Any, return_exceptions: bool = False) -> list[Any]:
    """What calls made in one turn of a new loop give; the first is a function that makes them."""

    async def main() -> list[Any]:
        return list(await asyncio.gather(*calls[0](), return_exceptions=return_exceptions))

    return run(main())


@covers("1.12-01", "1.12-02", "1.12-15")
def test_bare_on_a_method() -> None:
    recorder = Recorder()
    assert gathered(lambda: [recorder.plain(n) for n in range(4)]) == [0, 1, 2, 3]
    assert recorder.batches == [[0, 1, 2, 3]]


@covers("1.12-01", "1.12-02", "1.12-15")
def test_bare_on_a_function() -> None:
    @serve.batch
    async def negative(numbers: list[int]) -> list[int]:
        return [-number for number in numbers]

    assert gathered(lambda: [negative(n) for n in range(4)]) == [0, -1, -2, -3]
    assert negative._get_max_batch_size() == 10
    assert negative._get_batch_wait_timeout_s() == 0.01


@covers("1.12-01")
def test_on_a_partial_function() -> None:
    async def scaled(factor: int, numbers: list[int]) -> list[int]:
        return [factor * number for number in numbers]

    by_five = serve.batch(functools.partial(scaled, 5))
    assert gathered(lambda: [by_five(n) for n in (1, 2)]) == [5, 10]


@covers("1.12-01")
def test_name_and_documentation_stay() -> None:
    @serve.batch(max_batch_size=2)
    async def embed(texts: list[str]) -> list[str]:
        """Vectors."""
        return texts

    assert (embed.__name__, embed.__doc__) == ("embed", "Vectors.")
    assert Recorder.plain.__name__ == "plain"


@covers("1.12-01")
def test_a_class_calls_the_batched_method_of_its_parent() -> None:
    louder = Louder()
    assert gathered(lambda: [louder.work(n) for n in range(2)]) == ["<0!>", "<1!>"]
    assert louder.batches == [["0!", "1!"]]


@covers("1.12-02")
@pytest.mark.parametrize("kind", [list, tuple, numpy.array])
def test_any_sequence_of_answers(kind: Any) -> None:
    @serve.batch
    async def same(items: list[int]) -> Any:
        return kind(items)

    assert gathered(lambda: [same(n) for n in range(3)]) == [0, 1, 2]


@covers("1.12-03")
def test_several_parameters() -> None:
    async def joined(left: list[str], right: list[str], *, between: list[str]) -> list[str]:
        assert left == ["a", "b"] and right == ["x", "y"]
        return [one + sign + other for one, other, sign in zip(left, right, between, strict=True)]

    batched: Any = serve.batch(joined)  # type: ignore[arg-type]  # its types know one parameter only
    assert gathered(lambda: [batched("a", "x", between="-"), batched("b", "y", between="+")]) == ["a-x", "b+y"]


@covers("1.12-05")
@pytest.mark.parametrize("given", [[], [1], [1, 2, 3, 4]])
def test_answers_of_another_length(given: list[int]) -> None:
    @serve.batch
    async def wrong(_items: list[int]) -> list[int]:
        return given

    errors = gathered(lambda: [wrong(n) for n in range(3)], return_exceptions=True)
    for error in errors:
        assert isinstance(error, RayServeException)
        assert "doesn't preserve batch size" in str(error)
        assert "input list has length 3" in str(error) and f"returned list has length {len(given)}" in str(error)


@covers("1.12-05")
@pytest.mark.parametrize("given", [None, 7, "abc", {"a": 1, "b": 2, "c": 3}])
def test_answers_that_are_no_list(given: Any) -> None:
    @serve.batch
    async def wrong(_items: list[int]) -> Any:
        return given

    for error in gathered(lambda: [wrong(n) for n in range(3)], return_exceptions=True):
        assert isinstance(error, RayServeException)
        assert "must return a list" in str(error) and type(given).__name__ in str(error) and "3" in str(error)


@covers("1.12-06")
def test_an_exception_goes_to_all_of_its_batch_and_to_no_other() -> None:
    @serve.batch(max_batch_size=2)
    async def picky(items: list[int]) -> list[int]:
        if 1 in items:
            raise LookupError("no 1 here")
        return items

    answers = gathered(lambda: [picky(n) for n in range(4)], return_exceptions=True)
    assert [type(one) for one in answers] == [LookupError, LookupError, int, int]
    assert str(answers[0]) == "no 1 here" and answers[2:] == [2, 3]


@covers("1.12-07")
def test_a_full_batch_does_not_wait() -> None:
    async def main() -> tuple[list[list[Any]], float]:
        recorder, loop = Recorder(), asyncio.get_running_loop()
        start = loop.time()
        await asyncio.gather(*(recorder.work(n) for n in range(3)))
        return recorder.batches, loop.time() - start

    batches, took_s = run(main())
    assert batches == [[0, 1, 2]] and took_s == pytest.approx(1.0)


@covers("1.12-07")
def test_the_wait_counts_from_the_first_item() -> None:
    async def main() -> tuple[list[list[Any]], float]:
        recorder, loop = Recorder(), asyncio.get_running_loop()
        start = loop.time()
        first = asyncio.ensure_future(recorder.work("a"))
        await asyncio.sleep(0.4)
        await asyncio.gather(first, recorder.work("b"))
        return recorder.batches, loop.time() - start

    batches, took_s = run(main())
    assert batches == [["a", "b"]] and took_s == pytest.approx(1.5)


@covers("1.12-08")
@pytest.mark.parametrize("limit", [1, 2, 4])
def test_batches_at_a_time(limit: int) -> None:
    running = most = 0

    @serve.batch(max_batch_size=1, max_concurrent_batches=limit)
    async def work(items: list[int]) -> list[int]:
        nonlocal running, most
        running, most = running + 1, max(most, running + 1)
        await asyncio.sleep(1)
        running -= 1
        return items

    assert gathered(lambda: [work(n) for n in range(8)]) == list(range(8))
    assert most == limit


@covers("1.12-09")
def test_who_left_is_not_in_the_batch() -> None:
    async def main() -> list[list[Any]]:
        recorder = Recorder()
        calls = [asyncio.ensure_future(recorder.work(n)) for n in range(2)]
        await asyncio.sleep(0.1)
        calls[0].cancel()
        assert await calls[1] == "<1>"
        return recorder.batches

    assert run(main()) == [[1]]


@covers("1.12-09")
def test_one_who_leaves_a_running_batch_does_not_stop_the_others() -> None:
    async def main() -> Any:
        recorder = Recorder()
        calls = [asyncio.ensure_future(recorder.work(n)) for n in range(3)]
        await asyncio.sleep(0.5)
        calls[0].cancel()
        return await asyncio.gather(*calls, return_exceptions=True)

    first, *others = run(main())
    assert isinstance(first, asyncio.CancelledError) and others == ["<1>", "<2>"]


async def drained(stream: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in stream]


@covers("1.12-10")
@pytest.mark.parametrize("end", [StopIteration, StopAsyncIteration])
def test_streams_of_different_lengths(end: Any) -> None:
    @serve.batch
    async def count(limits: list[int]) -> AsyncIterator[list[Any]]:
        for step in range(max(limits)):
            yield [step if step < limit else end for limit in limits]

    assert gathered(lambda: [drained(count(n)) for n in (1, 3, 2)]) == [[0], [0, 1, 2], [0, 1]]


@covers("1.12-10")
def test_streams_of_arrays() -> None:
    @serve.batch
    async def chunks(sizes: list[int]) -> AsyncIterator[list[Any]]:
        yield [numpy.arange(size) for size in sizes]

    two, three = gathered(lambda: [drained(chunks(n)) for n in (2, 3)])
    assert [part.tolist() for part in two] == [[0, 1]] and [part.tolist() for part in three] == [[0, 1, 2]]


@covers("1.12-10", "1.12-06")
def test_a_stream_that_breaks_gives_what_it_had() -> None:
    @serve.batch
    async def broken(items: list[int]) -> AsyncIterator[list[int]]:
        yield items
        raise OSError("disk")

    async def main() -> None:
        seen: list[int] = []
        with pytest.raises(OSError, match="disk"):
            async for item in broken(5):
                seen.append(item)
        assert seen == [5]

    run(main())


@covers("1.12-10", "1.12-05")
def test_a_stream_of_lists_of_another_length() -> None:
    @serve.batch
    async def short(_items: list[int]) -> AsyncIterator[list[int]]:
        yield [1]

    for error in gathered(lambda: [drained(short(n)) for n in range(2)], return_exceptions=True):
        assert isinstance(error, RayServeException)
        assert "input list has length 2 but the returned list has length 1" in str(error)


async def as_request(context: RequestContext, call: Any) -> Any:
    current_request.set(context)
    return await call()


@covers("1.12-11", "1.12-17")
def test_models_do_not_mix_and_each_item_has_its_context() -> None:
    seen: list[tuple[str, list[str]]] = []

    @serve.batch
    async def work(items: list[int]) -> list[int]:
        seen.append((serve.get_multiplexed_model_id(), [one.request_id for one in batch_requests.get() if one]))
        return items

    async def main() -> None:
        requests = [RequestContext(request_id=f"r{n}", multiplexed_model_id="ab"[n % 2]) for n in range(4)]
        steps = (as_request(one, functools.partial(work, n)) for n, one in enumerate(requests))
        assert await asyncio.gather(*(asyncio.create_task(step) for step in steps)) == [0, 1, 2, 3]

    run(main())
    assert sorted(seen) == [("a", ["r0", "r2"]), ("b", ["r1", "r3"])]


@covers("1.12-12")
def test_setters_and_getters() -> None:
    recorder, other = Recorder(), Recorder()
    work: Any = recorder.work
    work.set_max_batch_size(2)
    work.set_batch_wait_timeout_s(0.25)
    assert (work._get_max_batch_size(), work._get_batch_wait_timeout_s()) == (2, 0.25)
    assert gathered(lambda: [recorder.work(n) for n in range(4)]) == ["<0>", "<1>", "<2>", "<3>"]
    assert recorder.batches == [[0, 1], [2, 3]]
    untouched: Any = other.work
    assert untouched._get_max_batch_size() == 3, "each instance has settings of its own"


@covers("1.12-12")
def test_what_a_running_batch_tells() -> None:
    async def main() -> None:
        recorder = Recorder()
        work: Any = recorder.work
        assert work._is_batching_task_alive() and work._get_curr_iteration_start_times() == []
        calls = [asyncio.ensure_future(recorder.work(n)) for n in range(3)]
        await asyncio.sleep(0.1)
        assert len(work._get_curr_iteration_start_times()) == 1
        assert "code work>" in work._get_handling_task_stack(), "the user's own line, not the queue's"
        await asyncio.gather(*calls)

    run(main())


def total(texts: list[str]) -> int:
    return sum(map(len, texts))


@covers("1.12-13")
def test_sizes_close_a_batch_in_order() -> None:
    batches: list[list[str]] = []

    @serve.batch(max_batch_size=5, batch_size_fn=total)
    async def work(items: list[str]) -> list[str]:
        batches.append(items)
        return items

    texts = ["aaa", "bb", "cccc", "d", "eeeee"]
    assert gathered(lambda: [work(text) for text in texts]) == texts
    assert batches == [["aaa", "bb"], ["cccc", "d"], ["eeeee"]]


@covers("1.12-13")
def test_one_too_large_fails_alone() -> None:
    @serve.batch(max_batch_size=3, batch_size_fn=total)
    async def work(items: list[str]) -> list[str]:
        return items

    first, large, last = gathered(lambda: [work("a"), work("bbbb"), work("c")], return_exceptions=True)
    assert (first, last) == ("a", "c") and isinstance(large, RuntimeError)
    assert "greater than max_batch_size: 4 > 3" in str(large) and "Raise max_batch_size" in str(large)


@covers("1.12-14")
def test_instances_do_not_share() -> None:
    one, other = Recorder(), Recorder()
    assert gathered(lambda: [one.work(1), other.work(2), one.work(3)]) == ["<1>", "<2>", "<3>"]
    assert one.batches == [[1, 3]] and other.batches == [[2]]
