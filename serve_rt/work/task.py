"""`@serve.task`: a function that runs in one of the cluster's worker processes.

    @serve.task(num_cpus=1)
    def tokenize(text): ...

    ref = tokenize.remote("hi")      # at once; from a driver or from inside a replica
    serve.get(ref)

Walk: `task` → `TaskFunction.remote` → `pool` (the workers, made at the first call) → `ref` (the call, and what is given
back) → serve_rt.handle → `worker`.
"""

from __future__ import annotations

import functools
import inspect
import threading
import weakref
from collections.abc import Callable, Coroutine, Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Protocol, TypeVar, overload

from serve_rt.api.payload import Payload, pack
from serve_rt.handle.call import CallOptions
from serve_rt.handle.runtime import HandleRuntime
from serve_rt.work.options import TaskOptions, task_options
from serve_rt.work.ref import TaskCall, WorkRef, WorkSink

if TYPE_CHECKING:
    from serve_rt.work.pool import Pool

R = TypeVar("R")
_SYNC, _ASYNC = CallOptions("run"), CallOptions("run_async")


class TaskFunction(Generic[R]):
    """Made by `@serve.task`, changed by `.options()`, which gives a copy."""

    def __init__(self, function: Callable[..., R], given: Mapping[str, Any]) -> None:
        self.func_or_class = function
        """The name under which `serve_rt.api.payload` looks for what a decorator has covered."""
        self._given = dict(given)
        self._options = task_options(given)
        self._forget()

    def _forget(self) -> None:
        functools.update_wrapper(self, self.func_or_class)
        self.__name__ = self.func_or_class.__name__
        self._lock = threading.Lock()
        self._packed: tuple[str, bytes] | None = None
        self._pools: weakref.WeakKeyDictionary[HandleRuntime, Pool] = weakref.WeakKeyDictionary()

    @property
    def task_options(self) -> TaskOptions:
        return self._options

    def options(self, **given: Any) -> TaskFunction[R]:
        """A copy with other options. *Errors*: as `serve.task`."""
        changed = TaskFunction[R](self.func_or_class, {**self._given, **given})
        changed._packed = self._packed
        return changed

    def remote(self, *args: Any, **kwargs: Any) -> WorkRef[R]:
        """Start it and return at once. An argument that is a ref or a handle's response is passed on when it is there.
        Any: an argument is of the function's own type, or a ref of it.

        *Errors*: TypeError for arguments that do not fit the function or cannot be pickled; NoClusterError.
        """
        from serve_rt.work.deploying import runtime_here  # not with the decorator: a program may never call its tasks

        name = self.func_or_class.__name__
        runtime = runtime_here()
        sink = WorkSink()
        digest, packed = self._function()
        how = _ASYNC if inspect.iscoroutinefunction(self.func_or_class) else _SYNC
        call = TaskCall(
            runtime, self._pool(runtime), name, self._options, how, (digest, packed, *args), kwargs, sink
        )  # fmt: skip
        call.start()
        return WorkRef(call, sink, name)

    def _pool(self, runtime: HandleRuntime) -> Pool:
        pool = self._pools.get(runtime)
        if pool is None:
            from serve_rt.work.pool import pool_for

            pool = self._pools[runtime] = pool_for(runtime, self._options.needs)
        return pool

    def _function(self) -> tuple[str, bytes]:
        """As it is at its first call; what it names in `__main__` goes along, as it is then."""
        with self._lock:
            if self._packed is None:
                packed = pack(Payload(self.func_or_class))
                self._packed = sha256(packed).hexdigest(), packed
            return self._packed

    def __call__(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        name = self.func_or_class.__name__
        raise TypeError(
            f"the task {name} cannot be called directly: {name}.remote(...) runs it in the cluster, "
            f"{name}.func_or_class(...) here."
        )

    def __getstate__(self) -> tuple[Callable[..., R], dict[str, Any]]:
        return self.func_or_class, self._given

    def __setstate__(self, state: tuple[Callable[..., R], dict[str, Any]]) -> None:
        self.func_or_class, self._given = state
        self._options = task_options(self._given)
        self._forget()

    def __repr__(self) -> str:
        return f"<task {self.func_or_class.__name__}>"


class _Decorator(Protocol):
    @overload
    def __call__(self, function: Callable[..., Coroutine[Any, Any, R]], /) -> TaskFunction[R]: ...
    @overload
    def __call__(self, function: Callable[..., R], /) -> TaskFunction[R]: ...


@overload
def task(function: Callable[..., Coroutine[Any, Any, R]], /) -> TaskFunction[R]: ...
@overload
def task(function: Callable[..., R], /) -> TaskFunction[R]: ...
@overload
def task(**options: Any) -> _Decorator: ...
def task(function: Any = None, /, **options: Any) -> Any:
    """Make a function a task: `@serve.task`, `@serve.task(num_cpus=2, max_retries=0)`.

    It runs in a worker process of the cluster, one task at a time in each; workers are started while tasks wait, kept a
    few seconds and then ended. Options: `num_cpus` (1), `num_gpus`, `gpu_memory`, `memory`, `resources`,
    `accelerator_type`, `label_selector`, `runtime_env` (its env_vars) as for deployments; `max_retries` (3): how often
    it may run again after its worker was lost while it may have run, 0 means at most once; `retry_exceptions` (False):
    which of its own exceptions are a reason, too.

    *Errors*: TypeError or ValueError naming the option; an unknown one is answered with the nearest known one.
    """
    task_options(options)

    def decorate(one: Callable[..., Any]) -> TaskFunction[Any]:
        _check_function(one)
        return TaskFunction(one, options)

    return decorate if function is None else decorate(function)


def _check_function(function: object) -> None:
    """*Errors*: TypeError."""
    if isinstance(function, TaskFunction):
        raise TypeError(f"{function!r} is a task already: use its .options(...) to change it.")
    if inspect.isclass(function):
        raise TypeError(f"@serve.task is for functions: make the class {function.__name__} an actor (@serve.actor).")
    if not inspect.isfunction(function):
        raise TypeError(f"@serve.task is for functions defined with `def`, got {function!r:.100}.")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(
            f"the task {function.__name__} is a generator: a task has one result. Return a list, or stream from a "
            "deployment's method: handle.options(stream=True)."
        )
