"""What programs call on Ray's configuration objects, which are pydantic models: `copy(update=...)`, `dict()`.

    QUICK = AutoscalingConfig(max_replicas=4, upscale_delay_s=0)
    serve.deployment(autoscaling_config=QUICK.copy(update={"max_replicas": 64}))

As with pydantic a copy's values are not looked at before it is used: one may be changed by another copy first.
"""

from __future__ import annotations

import copy as copies
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, Self, TypeVar

from serve_rt.config.naming import refuse_unknown

C = TypeVar("C", bound="Copied")


class Copied:
    """Base of the configuration classes, which are frozen dataclasses."""

    def __new__(cls, *_args: Any, **given: Any) -> Self:
        """*Errors*: UnknownOptionError for a keyword that is no field, in place of a bare TypeError."""
        if given:
            refuse_unknown(cls.__name__, given, _names(cls))
        return super().__new__(cls)

    def copy(self: C, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> C:
        """*Errors*: UnknownOptionError for a field that is not there; wrong values are refused where it is used."""
        update = update or {}
        refuse_unknown(type(self).__name__, update, _names(self))
        made = copies.deepcopy(self) if deep else copies.copy(self)
        for name, value in update.items():
            object.__setattr__(made, name, value)
        object.__setattr__(made, "_unchecked", True)
        return made

    model_copy = copy

    def dict(self, *, exclude_none: bool = False, exclude_unset: bool = False) -> dict[str, Any]:
        """`exclude_unset` leaves out what is as by default."""
        given = asdict(self)  # type: ignore[call-overload]  # the classes that have this one are dataclasses
        if exclude_unset:
            unset = {one.name for one in fields(self) if getattr(self, one.name) == one.default}  # type: ignore[arg-type]
            given = {name: value for name, value in given.items() if name not in unset}
        return {name: value for name, value in given.items() if value is not None or not exclude_none}

    model_dump = dict

    @classmethod
    def parse_obj(cls: type[C], given: Mapping[str, Any]) -> C:
        """*Errors*: UnknownOptionError, and those of the class."""
        refuse_unknown(cls.__name__, given, _names(cls))
        return cls(**given)

    model_validate = parse_obj


def recheck(given: Any) -> None:
    """*Errors*: those of its class, for a copy with values that nobody has looked at."""
    if vars(given).pop("_unchecked", False):
        given.__post_init__()


def _names(given: Any) -> list[str]:
    return [one.name for one in fields(given)]
