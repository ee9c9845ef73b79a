"""`@serve.batch`: calls with one item each become one call of the function with a list.

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.01)
    async def embed(self, texts: list[str]) -> list[Vector]: ...

    vector = await self.embed("one text")

Works on methods and free functions, in replicas and anywhere else that has an event loop. Every instance has queues of
its own (Ray shares one among all instances), one for each multiplexed model. Next stop: serve_rt.batching.queue.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Protocol, TypeVar, overload

from serve_rt.batching.binding import BatchedMethod, bind
from serve_rt.batching.settings import BatchSettings, SizeFunction

S = TypeVar("S", contravariant=True)
T = TypeVar("T")
R = TypeVar("R")
T_contra = TypeVar("T_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)


class BatchControls(Protocol):
    """What a batched function can be told while it runs, typically from `reconfigure`."""

    def set_max_batch_size(self, new_max_batch_size: int) -> None: ...
    def set_batch_wait_timeout_s(self, new_batch_wait_timeout_s: float) -> None: ...


class Batched(BatchControls, Protocol[T_contra, R_co]):
    def __call__(self, item: T_contra, /) -> Coroutine[Any, Any, R_co]: ...


class BatchedStream(BatchControls, Protocol[T_contra, R_co]):
    def __call__(self, item: T_contra, /) -> AsyncIterator[R_co]: ...


class BatchedMember(Protocol[S, T, R]):
    """A batched method as it stands in its class."""

    @overload
    def __get__(self, instance: None, owner: type[Any], /) -> BatchedMember[S, T, R]: ...
    @overload
    def __get__(self, instance: S, owner: type[Any] | None = None, /) -> Batched[T, R]: ...


class BatchedStreamMember(Protocol[S, T, R]):
    @overload
    def __get__(self, instance: None, owner: type[Any], /) -> BatchedStreamMember[S, T, R]: ...
    @overload
    def __get__(self, instance: S, owner: type[Any] | None = None, /) -> BatchedStream[T, R]: ...


class _Decorator(Protocol):
    @overload
    def __call__(self, func: Callable[[list[T]], Coroutine[Any, Any, list[R]]], /) -> Batched[T, R]: ...
    @overload
    def __call__(self, func: Callable[[list[T]], AsyncIterator[list[R]]], /) -> BatchedStream[T, R]: ...
    @overload
    def __call__(self, func: Callable[[S, list[T]], Coroutine[Any, Any, list[R]]], /) -> BatchedMember[S, T, R]: ...
    @overload
    def __call__(self, func: Callable[[S, list[T]], AsyncIterator[list[R]]], /) -> BatchedStreamMember[S, T, R]: ...
    @overload
    def __call__(self, func: Callable[..., Any], /) -> Any: ...


@overload
def batch(_func: Callable[[list[T]], Coroutine[Any, Any, list[R]]], /) -> Batched[T, R]: ...
@overload
def batch(_func: Callable[[list[T]], AsyncIterator[list[R]]], /) -> BatchedStream[T, R]: ...
@overload
def batch(_func: Callable[[S, list[T]], Coroutine[Any, Any, list[R]]], /) -> BatchedMember[S, T, R]: ...
@overload
def batch(_func: Callable[[S, list[T]], AsyncIterator[list[R]]], /) -> BatchedStreamMember[S, T, R]: ...
@overload
def batch(
    _func: None = None,
    /,
    max_batch_size: int = 10,
    batch_wait_timeout_s: float = 0.01,
    max_concurrent_batches: int = 1,
    batch_size_fn: SizeFunction | None = None,
) -> _Decorator: ...
def batch(
    _func: Any = None,
    /,
    max_batch_size: int = 10,
    batch_wait_timeout_s: float = 0.01,
    max_concurrent_batches: int = 1,
    batch_size_fn: SizeFunction | None = None,
) -> Any:
    """Gather single calls into calls with lists.

    A batch starts when `max_batch_size` items are there or the first has waited `batch_wait_timeout_s`; at most
    `max_concurrent_batches` run at a time. With `batch_size_fn` the size of a batch is what it says of its items.
    An async generator yields lists, one element for each caller's stream; `StopIteration` as an element ends a stream.

    *Errors*: what the function raises goes to every caller of the batch; a list of another length is a ServeException.
    """
    if _func is not None and not callable(_func):
        raise TypeError("@serve.batch can only be used to decorate functions or methods.")
    settings = BatchSettings(max_batch_size, batch_wait_timeout_s, max_concurrent_batches, batch_size_fn)
    decorate = functools.partial(_decorate, settings)
    return decorate if _func is None else decorate(_func)


def _decorate(settings: BatchSettings, func: Callable[..., Any]) -> Any:
    if not callable(func):
        raise TypeError("@serve.batch can only be used to decorate functions or methods.")
    if not (inspect.iscoroutinefunction(func) or inspect.isasyncgenfunction(func)):
        name = getattr(func, "__qualname__", repr(func))
        raise TypeError(f"Functions decorated with @serve.batch must be 'async def'; {name} is not")
    if _is_method(func):
        return BatchedMethod(func, settings)
    return bind(func, settings)


def _is_method(func: Callable[..., Any]) -> bool:
    """Defined in a class body? Its qualified name says so; a function inside a function has `<locals>` before it."""
    owner = getattr(func, "__qualname__", "").rpartition(".")[0]  # a partial function has none
    return bool(owner) and not owner.endswith("<locals>")


__all__ = ["BatchControls", "Batched", "BatchedMember", "BatchedStream", "batch"]
