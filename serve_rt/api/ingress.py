"""`@serve.ingress`: a deployment that answers HTTP through an ASGI application: FastAPI, Starlette, or any other.

    app = FastAPI()

    @serve.deployment
    @serve.ingress(app)
    class Greeter:
        @app.get("/hello/{name}")
        def hello(self, name: str) -> str: ...

The class gets one attribute, found by the replica at its instance: the application with that instance put into every
scope. Called in the user's program, and again wherever its module is imported. FastAPI's own part is in
`serve_rt.api.ingress_fastapi`, which is imported only when the program has imported FastAPI.
"""

from __future__ import annotations

import copyreg
import inspect
import math
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from serve_rt.errors import (
    BackPressureError,
    DeadlineExceededError,
    DeploymentUnavailableError,
    QueueTimeoutError,
    ServeException,
)

ASGI_APP = "__serve_asgi_app__"
"""Attribute of an instance that answers HTTP as a raw ASGI application."""
BUILD_METHOD = "__serve_build_asgi_app__"
INSTANCE = "serve.instance"
"""Key of every scope: the deployment's instance."""

Scope = dict[str, Any]  # Any: ASGI says so
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]


class _NoApp:
    """Stands for the class that `serve.ingress(app)()` was not given."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # Any: what the program binds, kept for its handlers
        self.args, self.kwargs = args, kwargs


def ingress(app: Any = None) -> Callable[..., Any]:  # Any: each library types ASGI in its own way
    """A decorator for classes; `app` is an ASGI application, or a function that makes one in the replica.

    Without `app` the class makes it: `def __serve_build_asgi_app__(self)`. Called without a class
    (`serve.deployment(serve.ingress(app)())`) it makes a deployment of the application alone.

    *Errors*: ValueError for a class that cannot be, RayServeException for a route method without `self`.
    """

    def decorate(cls: Any = None) -> Any:
        if cls is None:
            cls = type("ASGIIngressDeployment", (_NoApp,), {"__module__": "__main__"})
        _check(cls, app)
        if _fastapi_knows(app):
            from serve_rt.api.ingress_fastapi import inject_self

            inject_self(app, cls)
        _make_picklable()
        setattr(cls, ASGI_APP, Ingress(app))
        return cls

    return decorate


def _check(cls: object, app: object) -> None:
    if not inspect.isclass(cls):
        raise ValueError("@serve.ingress must be used with a class.")
    if any("__call__" in vars(base) for base in cls.__mro__):
        raise ValueError("Classes passed to @serve.ingress may not have __call__ method.")
    if app is None and not callable(getattr(cls, BUILD_METHOD, None)):
        raise ValueError(f"@serve.ingress needs an ASGI app, or a class with a `{BUILD_METHOD}` method that makes one.")
    if app is not None and not callable(app) and not _fastapi_knows(app):
        raise TypeError(f"@serve.ingress takes an ASGI app or a function that makes one, got {type(app).__name__}.")


class Ingress:
    """The class attribute; read at an instance it gives that instance's application, made once."""

    def __init__(self, app: Any) -> None:  # Any: ASGI application, APIRouter, builder function or None
        self._app = app

    def __get__(self, instance: object, owner: type) -> Any:
        if instance is None:
            return self
        try:
            bound = BoundApp(self._make(instance), instance)
        except AttributeError as error:  # getattr() with a default would take it for "has no application"
            raise ServeException(f"the ASGI app of {owner.__name__} could not be made: {error}") from error
        instance.__dict__[ASGI_APP] = bound
        return bound

    def _make(self, instance: Any) -> AsgiApp:
        app = self._app
        if app is None:
            app = getattr(instance, BUILD_METHOD)()
        elif _is_builder(app):
            app = app()
        if _fastapi_knows(app):
            from serve_rt.api.ingress_fastapi import application_for

            app = application_for(app, type(instance))
        if not callable(app):
            raise ServeException(f"the ASGI app of {type(instance).__name__} is a {type(app).__name__}, not callable")
        _answer_refusals(app)
        made: AsgiApp = app
        return made

    def __repr__(self) -> str:
        return f"<Ingress {self._app!r}>"


class BoundApp:
    """An ASGI application that tells its handlers whose they are."""

    def __init__(self, app: AsgiApp, instance: object) -> None:
        self.app = app
        self._instance = instance

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[INSTANCE] = self._instance
        await self.app(scope, receive, send)


def is_ingress(func_or_class: object) -> bool:
    return inspect.isclass(func_or_class) and hasattr(func_or_class, ASGI_APP)


def _is_builder(app: object) -> bool:
    """A plain function without required parameters; an ASGI application that is a function takes three."""
    if not inspect.isfunction(app) or inspect.iscoroutinefunction(app):
        return False
    parameters = inspect.signature(app).parameters.values()
    return not any(p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)


def _fastapi_knows(app: object) -> bool:
    """FastAPI or APIRouter; nobody can have one without having imported FastAPI."""
    fastapi = sys.modules.get("fastapi")
    kinds = tuple(kind for name in ("FastAPI", "APIRouter") if (kind := getattr(fastapi, name, None)) is not None)
    return isinstance(app, kinds)


# --- refusals of child calls ------------------------------------------------------------------------------------------


def _answer_refusals(app: Any) -> None:
    """Starlette would make a 500 of any exception: these are told as what they are, unless the program tells them."""
    handlers = getattr(app, "exception_handlers", None)
    if not isinstance(handlers, dict) or not hasattr(app, "add_exception_handler"):
        return
    for kind in (BackPressureError, DeploymentUnavailableError, QueueTimeoutError, DeadlineExceededError):
        if kind not in handlers:
            app.add_exception_handler(kind, _refusal)


async def _refusal(_request: Any, error: Any) -> Any:  # Any: starlette is imported by whoever has such an app
    from starlette.responses import PlainTextResponse

    if isinstance(error, BackPressureError):
        status, retry_after_s = error.status_code, error.retry_after_s or 1.0
    else:
        status, retry_after_s = error.http_status, 1.0
    headers = {"retry-after": str(max(1, math.ceil(retry_after_s)))}
    return PlainTextResponse(str(error), status, None if isinstance(error, DeadlineExceededError) else headers)


# --- travelling by value, from `__main__` and notebooks ---------------------------------------------------------------


def _make_picklable() -> None:
    """Starlette's State recurses without end when it is unpickled the usual way."""
    module = sys.modules.get("starlette.datastructures")
    if module is not None:
        copyreg.pickle(module.State, _reduce_state)


def _reduce_state(state: Any) -> Any:
    return type(state), (dict(state._state),)
