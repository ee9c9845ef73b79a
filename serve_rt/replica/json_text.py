"""What a handler returns, as compact JSON text.

Plain JSON values go through the C encoder; everything else through one hook that recognises things by what they can
do, so that neither numpy, pandas, torch nor pydantic is imported here.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
import json.encoder
from collections.abc import Callable, Mapping, Set
from pathlib import PurePath
from typing import Any
from uuid import UUID


def _plain(value: Any) -> Any:  # Any: whatever user code returned
    """A JSON value for `value`, or TypeError in words a user can act on."""
    if hasattr(value, "model_dump"):  # pydantic 2
        return value.model_dump(mode="json", by_alias=True)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, (UUID, PurePath)):
        return str(value)
    if isinstance(value, BaseException):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Set):
        return list(value)
    return _from_libraries(value)


def _from_libraries(value: Any) -> Any:
    if hasattr(value, "to_dict") and hasattr(value, "columns"):  # a data frame
        return value.to_dict(orient="records")
    if hasattr(value, "tolist"):  # numpy arrays and scalars, torch tensors, pandas series
        return value.tolist()
    if type(value).__name__ == "Decimal":
        return int(value) if value == value.to_integral_value() else float(value)
    if hasattr(value, "_asdict"):
        return value._asdict()
    raise TypeError(
        f"{type(value).__name__} cannot be turned into JSON: return a str, bytes, JSON values or a starlette Response"
    )


def _make_encode() -> Callable[[Any], str]:
    """`JSONEncoder.encode` builds its C encoder anew for each value, at thrice the cost of encoding a small one.

    One encoder is kept here where this Python has it; without the circle check, so a cycle is a RecursionError.
    """
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain).encode
    pieces_of = make(None, _plain, json.encoder.encode_basestring, None, ":", ",", False, False, False)
    return lambda value: "".join(pieces_of(value, 0))


_encode = _make_encode()


def to_json(value: Any) -> bytes:
    """*Errors*: TypeError, ValueError (NaN) or RecursionError (a cycle), in words about the user's value."""
    return _encode(value).encode("utf-8")
