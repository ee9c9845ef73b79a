"""`@serve.batch` and `@serve.multiplexed`: what they refuse, with which error and in which words. No cluster."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Any

import pytest

import serve_rt as serve
from serve_rt.api.build import AppOptions, build
from tests.conformance.bullets import covers


async def echo(items: list[Any]) -> list[Any]:
    return items


async def load(model_id: str) -> str:
    return model_id


@covers("1.12-04")
@pytest.mark.parametrize("value", ["10", None, 2.5, [1], True])
def test_batch_sizes_of_a_wrong_type(value: Any) -> None:
    with pytest.raises(TypeError, match=rf"max_batch_size must be integer >= 1, got {re.escape(repr(value))}"):
        serve.batch(max_batch_size=value)


@covers("1.12-04")
@pytest.mark.parametrize("value", [0, -3])
def test_batch_sizes_that_are_too_small(value: int) -> None:
    with pytest.raises(ValueError, match=f"max_batch_size must be an integer >= 1, got {value}"):
        serve.batch(max_batch_size=value)


@covers("1.12-04")
def test_whole_floats_are_sizes() -> None:
    sized: Any = serve.batch(max_batch_size=4.0)(echo)  # type: ignore[call-overload]  # that is the case
    assert sized._get_max_batch_size() == 4


@covers("1.12-04")
@pytest.mark.parametrize("value", ["0.1", None, [1]])
def test_waits_of_a_wrong_type(value: Any) -> None:
    with pytest.raises(TypeError, match=rf"batch_wait_timeout_s must be a float >= 0, got {re.escape(repr(value))}"):
        serve.batch(batch_wait_timeout_s=value)


@covers("1.12-04")
def test_negative_waits() -> None:
    with pytest.raises(ValueError, match="batch_wait_timeout_s must be a float >= 0, got -0.5"):
        serve.batch(batch_wait_timeout_s=-0.5)


@covers("1.12-04")
def test_waits_that_are_no_number() -> None:
    with pytest.raises(ValueError, match="batch_wait_timeout_s must be a float >= 0, got nan"):
        serve.batch(batch_wait_timeout_s=float("nan"))


@covers("1.12-04")
@pytest.mark.parametrize("value", [0, -1, 1.5, "2", None])
def test_concurrency(value: Any) -> None:
    words = f"max_concurrent_batches must be an integer >= 1, got {value!r}"
    with pytest.raises(TypeError, match=re.escape(words)):
        serve.batch(max_concurrent_batches=value)


@covers("1.12-04")
def test_size_functions() -> None:
    with pytest.raises(TypeError, match="batch_size_fn must be a callable or None, got .*int"):
        serve.batch(batch_size_fn=5)  # type: ignore[call-overload]  # that is the case


@covers("1.12-04")
@pytest.mark.parametrize("thing", [5, "work", [echo]])
def test_what_cannot_be_batched(thing: Any) -> None:
    with pytest.raises(TypeError, match="@serve.batch can only be used to decorate functions or methods"):
        serve.batch(thing)
    with pytest.raises(TypeError, match="@serve.batch can only be used to decorate functions or methods"):
        serve.batch(max_batch_size=2)(thing)


@covers("1.12-04")
def test_functions_that_are_not_async_are_named() -> None:
    def blocking(items: list[int]) -> list[int]:
        return items

    with pytest.raises(TypeError, match=r"must be 'async def'.*blocking"):
        serve.batch(blocking)  # type: ignore[arg-type]  # that is the case


@covers("1.12-12", "1.12-04")
@pytest.mark.parametrize(
    ("setter", "value", "kind", "words"),
    [
        ("set_max_batch_size", 0, ValueError, "max_batch_size must be an integer >= 1, got 0"),
        ("set_max_batch_size", "8", TypeError, "max_batch_size must be integer >= 1, got '8'"),
        ("set_batch_wait_timeout_s", -1, ValueError, "batch_wait_timeout_s must be a float >= 0, got -1"),
        ("set_batch_wait_timeout_s", None, TypeError, "batch_wait_timeout_s must be a float >= 0, got None"),
    ],
)
def test_setters_check_and_change_nothing(setter: str, value: Any, kind: type[Exception], words: str) -> None:
    batched: Any = serve.batch(max_batch_size=7, batch_wait_timeout_s=0.5)(echo)
    with pytest.raises(kind, match=words):
        getattr(batched, setter)(value)
    assert (batched._get_max_batch_size(), batched._get_batch_wait_timeout_s()) == (7, 0.5)


class Batching:
    @serve.batch(max_batch_size=8, max_concurrent_batches=2)
    async def work(self, items: list[int]) -> list[int]:
        return items


class Child(Batching):
    pass


@covers("1.12-16")
@pytest.mark.parametrize("kind", [Batching, Child])
def test_batches_that_never_fill_are_told(kind: type[Any], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        build(serve.deployment(max_ongoing_requests=4)(kind).bind(), AppOptions("app", None))
    assert re.search(r"max_ongoing_requests.*4|4.*max_ongoing_requests", caplog.text), caplog.text
    assert "max_batch_size" in caplog.text and kind.__name__ in caplog.text


@covers("1.13-02")
@pytest.mark.parametrize("thing", [5, "load"])
def test_what_cannot_be_multiplexed(thing: Any) -> None:
    with pytest.raises(TypeError, match="`multiplexed` decorator must be used with a function or method"):
        serve.multiplexed(thing)


@covers("1.13-02")
def test_loaders_that_are_not_async_are_named() -> None:
    def blocking(model_id: str) -> str:
        return model_id

    with pytest.raises(TypeError, match=r"@serve.multiplexed can only be used .* async .*blocking"):
        serve.multiplexed(blocking)  # type: ignore[arg-type]  # that is the case


@covers("1.13-02")
def test_loaders_with_other_parameters_are_named() -> None:
    async def nothing() -> str:
        return ""

    async def much(self: Any, model_id: str, more: int) -> str:
        return model_id

    for loader in (nothing, much):
        with pytest.raises(TypeError, match=rf"model id alone, methods `self` and the model id.*{loader.__name__}"):
            serve.multiplexed(loader)


@covers("1.13-02")
@pytest.mark.parametrize("value", ["3", 2.0, None, True])
def test_limits_of_a_wrong_type(value: Any) -> None:
    with pytest.raises(TypeError, match=rf"max_num_models_per_replica must be an integer.*{re.escape(repr(value))}"):
        serve.multiplexed(max_num_models_per_replica=value)


@covers("1.13-02")
@pytest.mark.parametrize("value", [0, -2])
def test_limits_that_are_too_small(value: int) -> None:
    with pytest.raises(ValueError, match=rf"max_num_models_per_replica must be positive, or -1.*got {value}"):
        serve.multiplexed(max_num_models_per_replica=value)


@covers("1.13-02")
@pytest.mark.parametrize("value", [3, None, b"m"])
def test_ids_of_a_wrong_type(value: Any) -> None:
    with pytest.raises(TypeError, match=rf"model ID must be a string.*{re.escape(repr(value))}"):
        asyncio.run(serve.multiplexed(load)(value))


@covers("1.13-02")
def test_an_empty_id_says_how_to_name_one() -> None:
    with pytest.raises(ValueError, match=r"model ID cannot be empty.*serve_multiplexed_model_id"):
        asyncio.run(serve.multiplexed(load)(""))


@covers("1.13-02")
@pytest.mark.parametrize("given", [(), ("a", "b")])
def test_another_number_of_ids(given: tuple[str, ...]) -> None:
    with pytest.raises(TypeError, match=f"takes the model id alone, got {len(given)} arguments"):
        asyncio.run(serve.multiplexed(load)(*given))
