"""`@serve.multiplexed`: a method that loads a model by id becomes one that remembers the last few.

    @serve.multiplexed(max_num_models_per_replica=3)
    async def load(self, model_id: str) -> Model: ...

    model = await self.load(serve.get_multiplexed_model_id())

Every decorated method of every instance has a cache of its own. Next stop: serve_rt.multiplex.cache.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar, overload

from serve_rt.multiplex.cache import ModelCache
from serve_rt.multiplex.held import held

P = ParamSpec("P")
R = TypeVar("R")
Load = Callable[P, Coroutine[Any, Any, R]]
PREFIX = "__serve_models_"
"""Of the attribute of an instance that holds a cache."""


@overload
def multiplexed(func: Load[P, R], /) -> Load[P, R]: ...
@overload
def multiplexed(func: None = None, max_num_models_per_replica: int = 3) -> Callable[[Load[P, R]], Load[P, R]]: ...
def multiplexed(func: Any = None, max_num_models_per_replica: int = 3) -> Any:
    """Keep at most `max_num_models_per_replica` models (-1: all); one that a running request uses is never dropped.

    *Errors*: TypeError and ValueError as Ray's for a function or limit that cannot be.
    """
    if func is not None and not callable(func):
        raise TypeError("The `multiplexed` decorator must be used with a function or method.")
    _check_limit(max_num_models_per_replica)
    decorate = functools.partial(_decorate, max_num_models_per_replica)
    return decorate if func is None else decorate(func)


def _check_limit(limit: object) -> None:
    if not isinstance(limit, int) or isinstance(limit, bool):
        raise TypeError(f"max_num_models_per_replica must be an integer, got {limit!r}.")
    if limit != -1 and limit <= 0:
        raise ValueError(f"max_num_models_per_replica must be positive, or -1 for no limit; got {limit}.")


def _decorate(limit: int, func: Callable[..., Any]) -> Any:
    name = getattr(func, "__qualname__", repr(func))
    if not inspect.iscoroutinefunction(func):
        raise TypeError(f"@serve.multiplexed can only be used to decorate async functions or methods; {name} is not.")
    parameters = len(inspect.signature(func).parameters)
    if parameters not in (1, 2):
        raise TypeError(
            f"@serve.multiplexed functions take the model id alone, methods `self` and the model id; {name} takes "
            f"{parameters} parameters."
        )
    caches: dict[str, ModelCache] = {}
    # The class is part of it: a loader may call the one of its parent, which has a cache of its own.
    key = f"{PREFIX}{func.__module__}.{name}"

    @functools.wraps(func)
    async def load(*args: Any) -> Any:
        if len(args) != parameters:
            raise TypeError(f"A @serve.multiplexed function takes the model id alone, got {len(args)} arguments.")
        *owner, model_id = args
        _check_model_id(model_id)
        _check_replica()
        table = vars(owner[0]) if owner else caches
        if key not in table:
            table[key] = ModelCache(functools.partial(func, *owner), limit)
        return await table[key].get(model_id)

    return load


def _check_model_id(model_id: object) -> None:
    if not isinstance(model_id, str):
        raise TypeError(f"The model ID must be a string, got {model_id!r}.")
    if not model_id:
        raise ValueError(
            "The model ID cannot be empty: send the header `serve_multiplexed_model_id`, or call by "
            "`handle.options(multiplexed_model_id=...)`."
        )


def _check_replica() -> None:
    """Not in `load` itself: that is pickled with classes of `__main__`, and `held` is of this process."""
    if not held.watched:
        raise RuntimeError(
            "@serve.multiplexed can only be used within a deployment: there is no replica here. To try a program in "
            "one process, use serve.run(..., _local_testing_mode=True)."
        )


async def unload_all(instance: object) -> None:
    """Unload the models of every multiplexed method of `instance`; the replica calls it when it ends."""
    kept = getattr(instance, "__dict__", {})  # a class with __slots__ has none, and so no multiplexed methods
    caches = [value for key, value in kept.items() if key.startswith(PREFIX)]
    for cache in caches:
        await cache.close()
