"""`@serve.actor`: a class of which one instance lives in a process of the cluster, with its state, until it is ended.

    @serve.actor
    class Counter:
        def __init__(self, start=0): self.value = start
        def add(self, n): self.value += n; return self.value

    counter = Counter.remote(10)
    serve.get(counter.add.remote(1))
    serve.kill(counter)

Walk: `actor` → `ActorClass.remote` (a hidden application `actor:<name>` of one replica, with `deploying`; `owning`
keeps it alive) → `ActorHandle` → `actor_call` → serve_rt.handle → `actor_host`.
"""

from __future__ import annotations

import asyncio
import inspect
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Generic, NoReturn, TypeVar, overload

from serve_rt.api.local_mode import is_local
from serve_rt.api.payload import Payload, pack
from serve_rt.errors import ConflictError
from serve_rt.handle.lookup import exists
from serve_rt.handle.runtime import HandleRuntime
from serve_rt.model.ids import AppName, DeploymentKey, DeploymentName
from serve_rt.model.spec import DeploymentOptions
from serve_rt.work import owning
from serve_rt.work.actor_call import ActorCall, ActorPlace, ActorSink, new_place, place_of
from serve_rt.work.actor_host import ActorHost, Terms, methods_of
from serve_rt.work.deploying import Prepared, delete, deploy, prepare, runtime_here
from serve_rt.work.options import actor_options, check_actor_name
from serve_rt.work.ref import WorkRef

T = TypeVar("T")
APP_PREFIX = "actor:"
ASYNC_CONCURRENCY = 1000
"""Of an actor with async methods that says nothing, as Ray has it."""
CALLS_HELD = 10_000
"""Calls that wait in the actor for their turn; more wait with their callers."""
OWNER_GRACE_S = 10.0
"""A stream may break and come back; an owner that ends properly ends its actors itself."""
KILL_S = 1.0
"""What a method that runs has left when its actor is ended."""


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
        runtime = runtime_here()
        options, kind = self._options, self.func_or_class
        shown = options.name or kind.__name__
        app = f"{APP_PREFIX}{options.name or f'{kind.__name__}:{uuid.uuid4().hex[:8]}'}"
        methods = tuple(methods_of(kind))
        prepared = self._prepared(Payload(kind, args, kwargs), shown)
        if options.name is None:
            place = new_place(_key(app), shown)
            runtime.post(_make, runtime, place, prepared, app)
        else:
            mine = self._take_name(runtime, prepared, app)
            place = place_of(_key(app), shown)
            if not mine:
                return ActorHandle(place, methods)
        if not (options.detached or is_local(runtime)):
            owning.own(runtime, place)
        return ActorHandle(place, methods)

    def _prepared(self, payload: Payload, shown: str) -> Prepared:
        options = self._options
        concurrency = options.max_concurrency or (ASYNC_CONCURRENCY if _is_async(self.func_or_class) else 1)
        terms = Terms(shown, concurrency, options.max_restarts, not options.detached, OWNER_GRACE_S)
        return prepare(
            "actor",
            ActorHost,
            (pack(payload), terms),
            options.needs,
            DeploymentOptions(
                max_ongoing_requests=CALLS_HELD,
                graceful_shutdown_timeout_s=KILL_S,
                max_constructor_retry_count=1,
                max_surge_percent=0,  # never two of them because one is to be moved
            ),
        )

    def _take_name(self, runtime: HandleRuntime, prepared: Prepared, app: str) -> bool:
        """Whether it is made now; False: there is one. *Errors*: ValueError when that is not what was asked for."""
        try:
            deploy(runtime, prepared, app, if_absent=True)
        except ConflictError as error:
            if self._options.get_if_exists:
                return False
            raise ValueError(
                f"the actor name {self._options.name!r} is taken: serve.get_actor finds it, get_if_exists takes it."
            ) from error
        return True

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


class ActorHandle:
    """An actor, to be called: `handle.method.remote(...)`. It can be sent anywhere, and is then the actor's name; the
    actor does not end with its handles (but see `lifetime`)."""

    def __init__(self, place: ActorPlace, methods: tuple[str, ...] | None = None) -> None:
        self._place = place
        self._methods = methods
        """None: only the actor knows."""

    @property
    def actor_name(self) -> str:
        return self._place.shown

    @property
    def app_name(self) -> str:
        """As `serve status` shows it."""
        return self._place.key.app

    def __getattr__(self, name: str) -> ActorMethod:
        if name.startswith("_"):
            raise AttributeError(name)
        if self._methods is not None and name not in self._methods:
            raise AttributeError(f"actor {self._place.shown} has no method {name!r}. It has: {list(self._methods)}")
        return ActorMethod(self._place, name)

    def __reduce__(self) -> tuple[Any, tuple[str, str, tuple[str, ...] | None]]:
        return (_handle, (self._place.key.app, self._place.shown, self._methods))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorHandle) and other._place.key == self._place.key

    def __hash__(self) -> int:
        return hash(self._place.key)

    def __repr__(self) -> str:
        return f"<ActorHandle {self._place.shown} ({self._place.key.app})>"


class ActorMethod:
    def __init__(self, place: ActorPlace, name: str) -> None:
        self._place, self._name = place, name

    def remote(self, *args: Any, **kwargs: Any) -> WorkRef[Any]:
        """Call it and return at once. Calls of one process are run in the order they were made; an argument that is a
        ref is passed on when it is there. Any: methods are found by name.

        *Errors*: TypeError when an argument cannot be pickled. ActorDiedError comes with the ref.
        """
        sink = ActorSink(self._place.shown)
        call = ActorCall(runtime_here(), self._place, (self._name, *args), kwargs, sink)
        call.start()
        return WorkRef(call, sink, f"{self._place.shown}.{self._name}")

    def __call__(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        raise TypeError(f"the actor's method {self._name} cannot be called directly: use {self._name}.remote(...).")


def _key(app: str) -> DeploymentKey:
    return DeploymentKey(AppName(app), DeploymentName("actor"))


def _handle(app: str, shown: str, methods: tuple[str, ...] | None) -> ActorHandle:
    return ActorHandle(place_of(_key(app), shown), methods)


def _make(runtime: HandleRuntime, place: ActorPlace, prepared: Prepared, app: str) -> None:
    """On the runtime's loop."""

    async def make() -> None:
        await asyncio.to_thread(deploy, runtime, prepared, app)
        place.ready = True

    place.made = asyncio.ensure_future(make())
    place.made.add_done_callback(lambda done: done.cancelled() or done.exception())  # the calls tell it


def _is_async(kind: type) -> bool:
    return any(inspect.iscoroutinefunction(inspect.getattr_static(kind, name, None)) for name in methods_of(kind))


# --- serve.actor, serve.get_actor, serve.kill ---------------------------------------------------------------------


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


def get_actor(name: str) -> ActorHandle:
    """The actor of that name, from any process. *Errors*: ValueError when there is none; NoClusterError."""
    check_actor_name(name)
    runtime_here()
    key = _key(f"{APP_PREFIX}{name}")
    if not exists(key):
        raise ValueError(f"there is no actor named {name!r}: it was not made yet, or it has ended. See `serve status`.")
    return ActorHandle(place_of(key, name))


def kill(actor: ActorHandle, *, no_restart: bool = True) -> None:
    """End an actor: a method that runs has a second to go on, calls that wait fail with ActorDiedError. One that has
    ended already is no error.

    *Errors*: ValueError for `no_restart=False`.
    """
    if not isinstance(actor, ActorHandle):
        raise TypeError(f"serve.kill takes an actor's handle, got {actor!r:.100}; serve.cancel ends a call.")
    if not no_restart:
        raise ValueError("no_restart=False is not supported: make a new actor, or ask it to begin anew.")
    place, runtime = actor._place, runtime_here()
    if place.made is not None and not place.made.done():
        asyncio.run_coroutine_threadsafe(place.opened(runtime), runtime.loop).result()
    place.ended = True
    owning.let_go(place)
    delete(place.key.app, runtime)
