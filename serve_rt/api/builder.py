"""Functions that build applications: `def app(args: dict) -> Application`, with arguments from the command line.

The one parameter may be a dict or a class of its own: a pydantic model (known by `model_validate`), or anything that
takes the arguments by name, as a dataclass does.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

from serve_rt.api.deployment import Application


def build_with(builder: Callable[..., Any], arguments: Mapping[str, Any]) -> Application:
    """*Errors*: TypeError for a wrong signature or result."""
    name = getattr(builder, "__name__", repr(builder))
    parameters = list(inspect.signature(builder).parameters.values())
    if len(parameters) > 1:
        raise TypeError(
            f"Application builder functions should take exactly one parameter, a dictionary containing the passed "
            f"arguments, but {name!r} takes {len(parameters)}."
        )
    if not parameters:
        if arguments:
            raise TypeError(f"Arguments {dict(arguments)} were given, but {name!r} takes none.")
        built = builder()
    else:
        built = builder(_typed(builder, parameters[0], arguments))
    if not isinstance(built, Application):
        raise TypeError(
            f"Application builder functions must return an `Application` returned by `Deployment.bind()`, but {name!r} "
            f"returned a {type(built).__name__}."
        )
    return built


def _typed(builder: Callable[..., Any], parameter: inspect.Parameter, arguments: Mapping[str, Any]) -> Any:
    try:
        kind = typing.get_type_hints(builder).get(parameter.name)
    except Exception:  # names that cannot be resolved say nothing about the type
        kind = None
    origin = typing.get_origin(kind) or kind
    if not isinstance(origin, type) or origin in (object, Any) or issubclass(origin, Mapping):
        return dict(arguments)
    validate = getattr(origin, "model_validate", None) or getattr(origin, "parse_obj", None)
    return validate(dict(arguments)) if validate is not None else origin(**arguments)
