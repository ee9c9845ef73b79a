"""`@serve.actor`: a class of which one instance lives in a process of the cluster, with its state, until it is ended.

    @serve.actor
    class Counter:
        def __init__(self, start=0): self.value = start
        def add(self, n): self.value += n; return self.value

    counter = Counter.remote(10)
    serve.get(counter.add.remote(1))
    serve.kill(counter)

Walk: `actor` → `ActorClass.remote` → `lives` (a hidden application `actor:<name>` of one replica, with `deploying`;
`owning` keeps it alive) → `actor_handle` → `actor_call` → serve_rt.handle → `actor_host`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Generic, NoReturn, TypeVar, overload

from serve_rt.work.actor_handle import ActorHandle
from serve_rt.work.options import actor_options

T = TypeVar("T")


class ActorClass(Generic[T]):
    """Made by `@serve.actor`, changed by `.options()`, which gives a copy."""

    def __init__(self, kind: type[T], given: Mapping[str, Any]) -> None:
        self.func_or_class = kind
        """The name under which `serve_rt.api.payload` looks for what a decorator has covered."""
        self._given = dict(given)
        self._options = actor_options(given)
        self.__name__, self.__module__, self.__doc__ = kind.__name__, kind.__module__, kind.__doc__

    def options(self, **given: Any) -> ActorClass[T]:
        """A copy with other options. *Errors*: as `serve.actor`."""
        return ActorClass(self.func_or_class, {**self._given, **given})

    def remote(self, *args: Any, **kwargs: Any) -> ActorHandle:
        """Make an actor; returns at once, one with a name once the name is taken. What its constructor raises comes
        with its methods' results.

        *Errors*: TypeError when an argument cannot be pickled; ValueError when the name is taken; NoClusterError.
        """
        from serve_rt.work.lives import make  # not with the decorator: a program may never make its actors

        return make(self.func_or_class, self._options, args, kwargs)

    def __call__(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        name = self.func_or_class.__name__
        raise TypeError(
            f"the actor {name} cannot be made directly: {name}.remote(...) makes it in the cluster, "
            f"{name}.func_or_class(...) here."
        )

    def __getstate__(self) -> tuple[type[T], dict[str, Any]]:
        return self.func_or_class, self._given

    def __setstate__(self, state: tuple[type[T], dict[str, Any]]) -> None:
        ActorClass.__init__(self, *state)

    def __repr__(self) -> str:
        return f"<actor class {self.func_or_class.__name__}>"


@overload
def actor(kind: type[T], /) -> ActorClass[T]: ...
@overload
def actor(**options: Any) -> Callable[[type[T]], ActorClass[T]]: ...
def actor(kind: Any = None, /, **options: Any) -> Any:
    """Make a class an actor: `@serve.actor`, `@serve.actor(num_cpus=2, max_restarts=1)`.

    One process holds the instance; its methods run one at a time, in the order each caller made its calls. Options:
    what it needs, as for `serve.task`; `max_concurrency` (1; 1000 for a class with async methods): so many at a time;
    `max_restarts` (0): how often it is made again, without its state, after its process was lost (-1: always); `name`,
    for `serve.get_actor`; `get_if_exists`; `lifetime="detached"`: it lives until `serve.kill` or `serve.shutdown`,
    otherwise it also ends with the process that made it.

    *Errors*: TypeError or ValueError naming the option; an unknown one is answered with the nearest known one.
    """
    actor_options(options)

    def decorate(one: Any) -> ActorClass[Any]:
        if isinstance(one, ActorClass):
            raise TypeError(f"{one!r} is an actor already: use its .options(...) to change it.")
        if not inspect.isclass(one):
            raise TypeError(f"@serve.actor is for classes, got {one!r:.100}; a function is made a task (@serve.task).")
        return ActorClass(one, options)

    return decorate if kind is None else decorate(kind)
