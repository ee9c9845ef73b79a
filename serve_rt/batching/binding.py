"""The batched function as its callers see it: a real `async def` function with a queue behind it.

Free functions are bound when decorated; methods for each instance, when first looked up on it, so that every instance
has its own queue and setters. Real functions, because frameworks ask `inspect.iscoroutinefunction`. What is pickled is
the function and its settings, never a queue.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import weakref
from collections.abc import AsyncIterator, Callable
from typing import Any

from serve_rt.aio.awaiting import awaiting
from serve_rt.batching.items import Item, StreamItem
from serve_rt.batching.queue import BatchQueue
from serve_rt.batching.settings import BatchSettings, checked_size, checked_wait
from serve_rt.context import current_request


class Queues:
    """The queues of one bound function: for each event loop, for each multiplexed model."""

    def __init__(self, function: Callable[..., Any], settings: BatchSettings) -> None:
        self._function = function
        self.settings = settings
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, BatchQueue]] = (
            weakref.WeakKeyDictionary()
        )

    def __reduce__(self) -> tuple[Any, tuple[Callable[..., Any], BatchSettings]]:
        return (Queues, (self._function, self.settings))

    def here(self, model_id: str) -> BatchQueue:
        loop = asyncio.get_running_loop()
        queues = self._loops.setdefault(loop, {})
        queue = queues.get(model_id)
        if queue is None:
            for other in [name for name, queue in queues.items() if queue.idle]:
                del queues[other]
            queue = queues[model_id] = BatchQueue(self._function, self.settings, loop)
        return queue

    def all(self) -> list[BatchQueue]:
        return [queue for queues in self._loops.values() for queue in queues.values()]

    def changed(self) -> None:
        """After a setter: what waits may be due now. Setters are called on the loop or before there is one."""
        for loop, queues in list(self._loops.items()):
            if not loop.is_closed():
                for queue in queues.values():
                    loop.call_soon_threadsafe(queue.pump)

    async def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        context = current_request.get()
        queue = self.here(context.multiplexed_model_id if context is not None else "")
        loop = asyncio.get_running_loop()
        item = Item(loop, (*args, *kwargs.values()) if kwargs else args, tuple(kwargs), context)
        queue.put(item)
        try:
            return await item.future
        except asyncio.CancelledError:
            queue.leave(item)
            raise

    async def stream(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> AsyncIterator[Any]:
        context = current_request.get()
        queue = self.here(context.multiplexed_model_id if context is not None else "")
        loop = asyncio.get_running_loop()
        item = StreamItem(loop, (*args, *kwargs.values()) if kwargs else args, tuple(kwargs), context)
        queue.put(item)
        try:
            while True:
                try:
                    value = await item.next()
                except StopAsyncIteration:
                    return
                yield value
        finally:
            queue.leave(item)
            item.ended = True
            item.future.cancel()


def bind(func: Callable[..., Any], settings: BatchSettings) -> Any:
    """A function of the same kind as `func` (coroutine or async generator) that goes through a queue."""
    queues = Queues(func, settings)
    bound: Any  # a function with attributes: no type for that
    if inspect.isasyncgenfunction(func):

        async def bound_stream(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            async for value in queues.stream(args, kwargs):
                yield value

        bound = bound_stream
    else:

        async def bound_call(*args: Any, **kwargs: Any) -> Any:
            return await queues.call(args, kwargs)

        bound = bound_call
    functools.update_wrapper(bound, func)
    _add_controls(bound, queues)
    return bound


def _add_controls(bound: Any, queues: Queues) -> None:
    bound.set_max_batch_size = functools.partial(_set_max_batch_size, queues)
    bound.set_batch_wait_timeout_s = functools.partial(_set_batch_wait_timeout_s, queues)
    bound._get_max_batch_size = functools.partial(_get_max_batch_size, queues)
    bound._get_batch_wait_timeout_s = functools.partial(_get_batch_wait_timeout_s, queues)
    bound._is_batching_task_alive = functools.partial(_is_alive, queues)
    bound._get_handling_task_stack = functools.partial(_stack, queues)
    bound._get_curr_iteration_start_times = functools.partial(_start_times, queues)


def _set_max_batch_size(queues: Queues, new_max_batch_size: int) -> None:
    queues.settings.max_batch_size = checked_size(new_max_batch_size)
    queues.changed()


def _set_batch_wait_timeout_s(queues: Queues, new_batch_wait_timeout_s: float) -> None:
    queues.settings.batch_wait_timeout_s = checked_wait(new_batch_wait_timeout_s)
    queues.changed()


def _get_max_batch_size(queues: Queues) -> int:
    return queues.settings.max_batch_size


def _get_batch_wait_timeout_s(queues: Queues) -> float:
    return queues.settings.batch_wait_timeout_s


def _is_alive(_queues: Queues) -> bool:
    """There is no task that could die: batches are started by the callers themselves."""
    return True


def _stack(queues: Queues) -> str:
    tasks = [task for queue in queues.all() for task in queue.running]
    return "\n".join(str(frame) for task in tasks for frame in awaiting(task.get_coro()))


def _start_times(queues: Queues) -> list[float]:
    return [batch.started for queue in queues.all() for batch in queue.running.values()]


class BatchedMethod:
    """A batched method as it stands in its class; looking it up on an instance gives that instance's own function.

    The function is kept in the instance's `__dict__`, so that it lives and dies with it.
    """

    def __init__(self, func: Callable[..., Any], settings: BatchSettings) -> None:
        self.func = func
        self.settings = settings
        self._slotted: dict[int, tuple[object, Any]] = {}
        """Functions of instances without a `__dict__`, kept as long as the class."""
        functools.update_wrapper(self, func)
        # The class is part of it: a method may call the one of its parent, which has a queue of its own.
        self._key = f"__serve_batched_{func.__module__}.{func.__qualname__}"

    def __reduce__(self) -> tuple[Any, tuple[Callable[..., Any], BatchSettings]]:
        return (BatchedMethod, (self.func, self.settings))

    def __get__(self, instance: object, owner: type[Any] | None = None) -> Any:
        if instance is None:
            return self
        table: dict[Any, tuple[object, Any]] = getattr(instance, "__dict__", self._slotted)
        key: Any = id(instance) if table is self._slotted else self._key
        found = table.get(key)
        if found is None or found[0] is not instance:  # a copy of an instance brings the original's function along
            bound = bind(_method_of(self.func, instance), self.settings.copy())
            found = table[key] = (instance, bound)
        return found[1]

    def __call__(self, instance: object, *args: Any, **kwargs: Any) -> Any:
        """`Class.method(instance, item)`."""
        return self.__get__(instance)(*args, **kwargs)


def _method_of(func: Callable[..., Any], instance: object) -> Callable[..., Any]:
    """`func` with its `self` filled in; a functools.partial would not show what kind of function it is."""
    if inspect.isasyncgenfunction(func):

        async def method_stream(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            async for value in func(instance, *args, **kwargs):
                yield value

        method: Callable[..., Any] = method_stream
    else:

        async def method_call(*args: Any, **kwargs: Any) -> Any:
            return await func(instance, *args, **kwargs)

        method = method_call
    functools.update_wrapper(method, func)
    signature = inspect.signature(func)
    method.__signature__ = signature.replace(parameters=list(signature.parameters.values())[1:])  # type: ignore[attr-defined]  # functions take any attribute
    return method
