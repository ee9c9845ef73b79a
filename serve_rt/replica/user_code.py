"""The user's instance or function, and how each of its methods is to be called.

What a method *is* (async or sync, generator or not) is looked up once and kept as a `Plan`; `call_http` and
`call_method` follow it for each request. Where a plan is sync, it runs in a thread of the pool.
"""

from __future__ import annotations

import asyncio
import enum
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from serve_rt.api.ingress import ASGI_APP
from serve_rt.errors import ServeException


class Shape(enum.Enum):
    ASYNC = "async def"
    ASYNC_GENERATOR = "async generator"
    SYNC = "def"
    GENERATOR = "generator"
    ASGI = "ASGI application"

    @property
    def in_thread(self) -> bool:
        return self in (Shape.SYNC, Shape.GENERATOR)


@dataclass(frozen=True, slots=True)
class Plan:
    name: str
    function: Callable[..., Any]  # Any: user code
    shape: Shape
    takes_argument: bool
    in_thread: bool


class UserCode:
    """`servable` is the instance of a class deployment, or the function itself."""

    def __init__(self, servable: Any) -> None:
        self.servable = servable
        self._is_function = inspect.isroutine(servable)
        self._methods: dict[str, Plan] = {}
        self.http = self._http_plan()

    def _http_plan(self) -> Plan | None:
        """None: the deployment cannot answer HTTP (it may be called through handles only)."""
        app = None if self._is_function else getattr(self.servable, ASGI_APP, None)
        if app is not None:
            return Plan("asgi", app, Shape.ASGI, takes_argument=True, in_thread=False)
        if not callable(self.servable):
            return None
        return self.method("__call__")

    @property
    def asgi_app(self) -> Callable[..., Any] | None:
        return self.http.function if self.http is not None and self.http.shape is Shape.ASGI else None

    def method(self, name: str) -> Plan:
        """*Errors*: ServeException naming the methods there are."""
        plan = self._methods.get(name)
        if plan is None:
            plan = self._methods[name] = plan_for(name, self._find(name))
        return plan

    def _find(self, name: str) -> Callable[..., Any]:
        if self._is_function and name == "__call__":
            function: Callable[..., Any] = self.servable
            return function
        found = None if self._is_function else getattr(self.servable, name, None)
        if not callable(found):
            raise ServeException(
                f"Tried to call a method '{name}' that does not exist. Available methods: {self._available()}."
            )
        return found  # type: ignore[no-any-return]  # an attribute of the user's object that is callable

    def _available(self) -> list[str]:
        if self._is_function:
            return ["__call__"]
        kind = type(self.servable)
        public = [name for name in dir(kind) if not name.startswith("_") and callable(getattr(kind, name, None))]
        return (["__call__"] if callable(self.servable) else []) + public

    def hook(self, name: str) -> Callable[..., Any] | None:
        """An optional method such as `check_health`; functions have none."""
        if self._is_function:
            return None
        found = getattr(self.servable, name, None)
        return found if callable(found) else None


def plan_for(name: str, function: Callable[..., Any]) -> Plan:
    shape = _shape(function)
    return Plan(name, function, shape, _takes_argument(function), shape.in_thread)


def is_async(function: Callable[..., Any]) -> bool:
    return _shape(function) is Shape.ASYNC


def _shape(function: Callable[..., Any]) -> Shape:
    inner: Any = function
    while isinstance(inner, functools.partial):
        inner = inner.func
    if not inspect.isroutine(inner) and not inspect.isclass(inner):
        inner = getattr(inner, "__call__", inner)  # noqa: B004  # the bound method, not whether there is one
    if inspect.isasyncgenfunction(inner):
        return Shape.ASYNC_GENERATOR
    if asyncio.iscoroutinefunction(inner) or inspect.iscoroutinefunction(inner):
        return Shape.ASYNC
    if inspect.isgeneratorfunction(inner):
        return Shape.GENERATOR
    return Shape.SYNC


def _takes_argument(function: Callable[..., Any]) -> bool:
    try:
        return len(inspect.signature(function).parameters) > 0
    except (TypeError, ValueError):  # a C function without a signature: give it the request
        return True
