"""How an actor begins, is found and ends: `ActorClass.remote`, `serve.get_actor`, `serve.kill`.

Loaded when the first of them is used: all that talks to the cluster comes with it.
"""

from __future__ import annotations

import asyncio
import inspect
import uuid
from collections.abc import Mapping
from typing import Any

from serve_rt.api.local_mode import is_local
from serve_rt.api.payload import Payload, pack
from serve_rt.errors import ConflictError
from serve_rt.handle.lookup import exists
from serve_rt.handle.runtime import HandleRuntime
from serve_rt.model.spec import DeploymentOptions
from serve_rt.work import owning
from serve_rt.work.actor_call import ActorPlace, new_place, place_of
from serve_rt.work.actor_handle import ActorHandle, key_of
from serve_rt.work.actor_host import ActorHost, Terms, methods_of
from serve_rt.work.deploying import Prepared, delete, deploy, prepare, runtime_here
from serve_rt.work.options import ActorOptions, check_actor_name

APP_PREFIX = "actor:"
ASYNC_CONCURRENCY = 1000
"""Of an actor with async methods that says nothing, as Ray has it."""
CALLS_HELD = 10_000
"""Calls that wait in the actor for their turn; more wait with their callers."""
OWNER_GRACE_S = 10.0
"""A stream may break and come back; an owner that ends properly ends its actors itself."""
KILL_S = 1.0
"""What a method that runs has left when its actor is ended."""


def make(kind: type, options: ActorOptions, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ActorHandle:
    """*Errors*: as `ActorClass.remote`."""
    runtime = runtime_here()
    shown = options.name or kind.__name__
    app = f"{APP_PREFIX}{options.name or f'{kind.__name__}:{uuid.uuid4().hex[:8]}'}"
    methods = tuple(methods_of(kind))
    prepared = _prepared(kind, options, Payload(kind, args, dict(kwargs)), shown)
    if options.name is None:
        place = new_place(key_of(app), shown)
        runtime.post(_make, runtime, place, prepared, app)
    else:
        mine = _take_name(runtime, options, prepared, app)
        place = place_of(key_of(app), shown)
        if not mine:
            return ActorHandle(place, methods)
    if not (options.detached or is_local(runtime)):
        owning.own(runtime, place, unique=options.name is None)
    return ActorHandle(place, methods)


def _prepared(kind: type, options: ActorOptions, payload: Payload, shown: str) -> Prepared:
    concurrency = options.max_concurrency or (ASYNC_CONCURRENCY if _is_async(kind) else 1)
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


def _take_name(runtime: HandleRuntime, options: ActorOptions, prepared: Prepared, app: str) -> bool:
    """Whether it is made now; False: there is one. *Errors*: ValueError when that is not what was asked for."""
    try:
        deploy(runtime, prepared, app, if_absent=True)
    except ConflictError as error:
        if options.get_if_exists:
            return False
        raise ValueError(
            f"the actor name {options.name!r} is taken: serve.get_actor finds it, get_if_exists takes it."
        ) from error
    return True


def _make(runtime: HandleRuntime, place: ActorPlace, prepared: Prepared, app: str) -> None:
    """On the runtime's loop."""

    async def make() -> None:
        await asyncio.to_thread(deploy, runtime, prepared, app)
        place.ready = True

    place.made = asyncio.ensure_future(make())
    place.made.add_done_callback(lambda done: done.cancelled() or done.exception())  # the calls tell it


async def _made_or_not(place: ActorPlace) -> None:
    """Return when nobody makes it any more: an end that overtook its beginning would end nothing."""
    if place.made is not None:
        await asyncio.wait({place.made})


def _is_async(kind: type) -> bool:
    return any(inspect.iscoroutinefunction(inspect.getattr_static(kind, name, None)) for name in methods_of(kind))


def get_actor(name: str) -> ActorHandle:
    """The actor of that name, from any process. *Errors*: ValueError when there is none; NoClusterError."""
    check_actor_name(name)
    runtime_here()
    key = key_of(f"{APP_PREFIX}{name}")
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
    if not place.ready:
        asyncio.run_coroutine_threadsafe(_made_or_not(place), runtime.loop).result()
    place.ended = True
    owning.let_go(place)
    delete(place.key.app, runtime)
