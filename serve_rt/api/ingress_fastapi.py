"""What `@serve.ingress` does for FastAPI: methods of the class become routes that are given the instance as `self`.

FastAPI takes every parameter for something the request brings. So `self` gets a default, `Depends(...)`, and the route
reads its parameters anew. Imported only in programs that have imported FastAPI themselves. Next stop: the replica,
which runs the application as any other ASGI one.
"""

from __future__ import annotations

import copyreg
import inspect
from collections.abc import Callable, Iterator
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, params
from fastapi import routing as fastapi_routing
from fastapi.datastructures import DefaultPlaceholder
from starlette.requests import HTTPConnection

from serve_rt.api.ingress import INSTANCE
from serve_rt.errors import ServeException

OWNER = "__serve_ingress_class__"
"""Of a class and of its routes' functions: the class's full name, which does not survive pickling by value as such."""


async def _instance(connection: HTTPConnection) -> Any:
    """Async although it waits for nothing: FastAPI would run it in a thread."""
    return connection.scope[INSTANCE]


def inject_self(app: Any, cls: type) -> None:
    """Make the routes of `app` that are methods of `cls` class-based views.

    *Errors*: ServeException for a method without `self`.
    """
    methods = {id(member) for base in cls.__mro__ for member in vars(base).values() if inspect.isfunction(member)}
    owner = f"{cls.__module__}.{cls.__qualname__}"
    # A class that is defined again, as in a notebook's cell, takes the place of the former.
    router = app if isinstance(app, APIRouter) else app.router
    _drop(router, lambda endpoint: getattr(endpoint, OWNER, None) == owner and id(endpoint) not in methods)
    setattr(cls, OWNER, owner)
    for route in _routes(app.routes):
        endpoint = getattr(route, "endpoint", None)
        if id(endpoint) in methods and not hasattr(endpoint, OWNER):
            _give_self(endpoint)
            setattr(endpoint, OWNER, owner)
            _read_parameters_anew(route)
    _make_picklable()


def application_for(app: Any, cls: type) -> FastAPI:
    """In the replica: the application for an instance of `cls`, without what belongs to other classes."""
    if isinstance(app, FastAPI):
        _drop_strangers(app.router, cls)
        return app
    _drop_strangers(app, cls)
    whole = FastAPI()
    whole.include_router(app)
    return whole


def _drop_strangers(router: APIRouter, cls: type) -> None:
    """Two deployments of one module may share an application: each serves its own routes."""
    ours = {None, *(vars(base).get(OWNER) for base in cls.__mro__)}
    _drop(router, lambda endpoint: getattr(endpoint, OWNER, None) not in ours)


def _drop(router: APIRouter, unwanted: Callable[[Any], bool]) -> None:
    routes = router.routes
    kept = [route for route in routes if not unwanted(getattr(route, "endpoint", None))]
    if len(kept) != len(routes):
        routes[:] = kept
        mark_changed = getattr(router, "_mark_routes_changed", None)  # FastAPI that looks included routers up lazily
        if mark_changed is not None:
            mark_changed()


def _routes(routes: list[Any]) -> Iterator[Any]:
    for route in routes:
        included = getattr(route, "original_router", None)
        if included is not None:
            yield from _routes(included.routes)
        else:
            yield route


def _give_self(endpoint: Any) -> None:  # Any: a function, which may bear attributes
    parameters = list(inspect.signature(endpoint).parameters.values())
    if not parameters:
        raise ServeException("Methods in FastAPI class-based view must have ``self`` as their first argument.")
    own, *others = parameters
    own = own.replace(default=Depends(_instance), annotation=inspect.Parameter.empty)
    # FastAPI passes all by name; behind a parameter with a default those without one must say so.
    named = [
        other if other.kind in (other.VAR_POSITIONAL, other.VAR_KEYWORD) else other.replace(kind=other.KEYWORD_ONLY)
        for other in others
    ]
    signature = inspect.signature(endpoint).replace(parameters=[own, *named])
    endpoint.__signature__ = signature  # what inspect, and so FastAPI, takes for its own


def _read_parameters_anew(route: Any) -> None:
    """A route looks at its function when it is made: make it again, in place, of what it was made of."""
    kinds: tuple[Any, ...] = (fastapi_routing.APIRoute, fastapi_routing.APIWebSocketRoute)
    for kind in kinds:
        if isinstance(route, kind):
            names = [name for name in inspect.signature(kind.__init__).parameters if name != "self"]
            given = {name: getattr(route, name) for name in names if hasattr(route, name)}
            type(route).__init__(route, **given)


# --- travelling by value, from `__main__` and notebooks ---------------------------------------------------------------


def _make_picklable() -> None:
    if hasattr(fastapi_routing, "_IncludedRouter"):
        copyreg.pickle(fastapi_routing._IncludedRouter, _reduce_included)
    if isinstance(_unset(), DefaultPlaceholder):
        copyreg.pickle(DefaultPlaceholder, _reduce_placeholder)


def _unset() -> Any:
    return getattr(params, "_Unset", None)


def _reduce_placeholder(placeholder: DefaultPlaceholder) -> Any:
    """One of them means "not given" and is known by its identity: a copy would show as an empty example in the docs."""
    return (_unset, ()) if placeholder is _unset() else (DefaultPlaceholder, (placeholder.value,))


def _reduce_included(included: Any) -> Any:
    """It holds a lock, which cannot travel, and what it has looked up, which need not."""
    return _include_again, (included.original_router, included.include_context)


def _include_again(router: APIRouter, context: Any) -> Any:
    return fastapi_routing._IncludedRouter(original_router=router, include_context=context)


__all__ = ["application_for", "inject_self"]
