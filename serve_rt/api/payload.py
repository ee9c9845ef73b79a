"""What a replica is made of: the user's callable and its constructor arguments, as one blob.

Packed by `serve_rt.api.build` in the driver, opened by the replica process and nobody else. What is defined in
`__main__` (a script, a notebook) travels by value; importable modules travel by reference and come to the replica in
the code snapshot. That holds for the deployment itself too, though its name in its module stands for the Deployment.
"""

from __future__ import annotations

import importlib
import pickle
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from types import ModuleType
from typing import Any

import cloudpickle

from serve_rt.errors import ServeException

PROTOCOL = 5


@dataclass(frozen=True)
class Payload:
    target: Callable[..., Any]
    """The user's class or function, before any instance of it exists."""
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Constructor arguments; nested applications are DeploymentHandles by now."""


def pack(payload: Payload, by_value: Iterable[ModuleType] = ()) -> bytes:
    """The blob; the modules `by_value` are put in whole instead of by name.

    *Errors*: TypeError naming what cannot be pickled and how to fix it.
    """
    modules = [module for module in by_value if module.__name__ != "__main__"]
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        return _dump(payload, modules)
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


def unpack(data: bytes) -> Payload:
    target, args, kwargs = pickle.loads(data)
    return Payload(target, args, kwargs)


class _Named:
    """A target that its module can give again."""

    def __init__(self, module: str, qualname: str) -> None:
        self.module, self.qualname = module, qualname

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return (find_target, (self.module, self.qualname))


def find_target(module: str, qualname: str) -> Any:
    """The class or function of that name; a Deployment that stands in its place is looked through."""
    found: Any = importlib.import_module(module)
    for name in qualname.split("."):
        found = getattr(found, name)
    return getattr(found, "func_or_class", found)


def _by_name(target: Any, by_value: Iterable[ModuleType]) -> Any:
    """`target` as a name when its module has it under that name, else as it is."""
    module, qualname = getattr(target, "__module__", None), getattr(target, "__qualname__", None)
    if not module or not qualname or module in ("__main__", "__mp_main__"):
        return target
    if "<locals>" in qualname or module not in sys.modules or module in {one.__name__ for one in by_value}:
        return target
    try:
        return _Named(module, qualname) if find_target(module, qualname) is target else target
    except AttributeError:  # the name was bound to something else since
        return target


def payload_digest(data: bytes) -> str:
    """SHA-256 of a blob without what is random in it: cloudpickle gives each class of `__main__` a random id."""
    from cloudpickle import cloudpickle as internals

    ids = {id_.encode() for id_ in internals._DYNAMIC_CLASS_TRACKER_BY_CLASS.values()}
    found = sorted((data.find(id_), id_) for id_ in ids if id_ in data)
    for order, (_, id_) in enumerate(found):
        data = data.replace(id_, b"%032d" % order)
    return sha256(data).hexdigest()


def _dump(payload: Payload, by_value: Iterable[ModuleType]) -> bytes:
    try:
        target = _by_name(payload.target, by_value)
        packed: bytes = cloudpickle.dumps((target, payload.args, payload.kwargs), PROTOCOL)
    except ServeException:
        raise
    except Exception as error:  # any object of the user may fail in its own way
        raise TypeError(_blame(payload, error)) from error
    return packed


def _blame(payload: Payload, error: Exception) -> str:
    name = getattr(payload.target, "__name__", repr(payload.target))
    fix = "Make it inside the constructor instead, or pass plain data that the constructor can make it from."
    named = [("the code itself", payload.target)]
    named += [(f"argument {index} of bind()", value) for index, value in enumerate(payload.args)]
    named += [(f"argument {key!r} of bind()", value) for key, value in payload.kwargs.items()]
    for what, value in named:
        try:
            cloudpickle.dumps(value, PROTOCOL)
        except Exception as reason:  # this is the one
            where = _guilty_global(value) if what == "the code itself" else f" (a {type(value).__name__})"
            return f"Could not serialize the deployment {name}: {what}{where} cannot be pickled: {reason}. {fix}"
    return f"Could not serialize the deployment {name}: {error}. {fix}"


def _guilty_global(target: object) -> str:
    """Which global of `__main__` that the code names cannot travel."""
    module = sys.modules.get(getattr(target, "__module__", "") or "")
    if module is None:
        return ""
    for name in sorted(_names_used(target)):
        value = getattr(module, name, None)
        try:
            cloudpickle.dumps(value, PROTOCOL)
        except Exception:  # this is the one
            return f" (it uses the global {name!r}, a {type(value).__name__})"
    return ""


def _names_used(target: object) -> set[str]:
    functions = [target, *vars(target).values()] if isinstance(target, type) else [target]
    names: set[str] = set()
    for function in functions:
        code = getattr(function, "__code__", None)
        if code is not None:
            names.update(name for name in code.co_names if re.match(r"[A-Za-z_]", name))
    return names
