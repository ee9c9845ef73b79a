"""Arguments, values and errors of handle calls as bytes.

Used by both ends of a call: a handle packs the arguments and opens the answer, a replica the other way round. Plain
pickle does the work where it can (it is several times faster); what belongs to `__main__` or has no importable name
goes by value with cloudpickle. Only drivers and replica processes ever open these bytes.
"""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serve_rt.errors import ServeException
from serve_rt.handle.buffers import (
    OUT_OF_BAND_BYTES,
    Buffers,
    Received,
    as_blob,
    cloudpickle_beside,
    frame,
    is_frame,
    open_frame,
    pickle_beside,
)

USER_ERROR = "UserError"
"""`Error.kind` of what user code raised."""
_MAX_MESSAGE_CHARS = 4_000
_MAX_TRACEBACK_CHARS = 16_000
_MAX_ERROR_BYTES = 1 << 20


def dumps(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
    """The arguments of one call.

    *Errors*: TypeError naming the argument that cannot be pickled.
    """
    try:
        return dump_value((tuple(map(as_blob, args)), {name: as_blob(value) for name, value in kwargs.items()}))
    except ServeException:
        raise
    except Exception as error:  # any user __reduce__ may fail in its own way: name the argument
        raise TypeError(_blame(args, kwargs, error)) from error


def loads(data: Received) -> tuple[tuple[Any, ...], dict[str, Any]]:
    args, kwargs = load_value(data)
    return args, kwargs


def dump_value(value: object) -> bytes:
    """One value; what lives in `__main__` goes by value, so that a process with another `__main__` can open it."""
    buffers: Buffers = []
    value = as_blob(value)
    try:
        data = pickle_beside(value, buffers)
        if b"__main__" not in data and b"__mp_main__" not in data:
            return frame(data, buffers)
    except ServeException:
        raise
    except Exception:  # lambdas, local classes, …: by value
        pass
    buffers.clear()
    return frame(cloudpickle_beside(value, buffers), buffers)


def dump_answer(value: object, method: str) -> bytes:
    """What `method` answers its caller.

    *Errors*: TypeError naming the method, for a value that cannot be pickled.
    """
    try:
        return dump_value(value)
    except ServeException:
        raise
    except Exception as error:  # any user __reduce__ may fail in its own way
        what = f"Could not serialize the answer of {method!r}, of type {type(value).__name__}: {error}."
        raise TypeError(f"{what} Return plain data, or items one by one from a generator.") from error


def load_value(data: Received) -> Any:
    """The value; arrays in a bytearray are built on it and keep it alive."""
    return open_frame(data) if is_frame(data) else pickle.loads(data)


class Forwarded:
    """The bytes of another call's answer, put among arguments unopened: the replica that gets them opens them."""

    __slots__ = ("_data",)

    def __init__(self, data: Received) -> None:
        self._data = data

    def __reduce__(self) -> tuple[Any, tuple[Any]]:
        small = len(self._data) < OUT_OF_BAND_BYTES
        return (load_value, (bytes(self._data) if small else pickle.PickleBuffer(self._data),))


def _blame(args: Sequence[Any], kwargs: Mapping[str, Any], error: Exception) -> str:
    named = [(f"argument {index}", value) for index, value in enumerate(args)]
    named += [(f"argument {name!r}", value) for name, value in kwargs.items()]
    for name, value in named:
        try:
            dump_value(value)
        except Exception as reason:  # this is the one
            what = f"Could not serialize {name} of type {type(value).__name__}: {reason}."
            if type(value).__name__ in ("Request", "WebSocket", "UploadFile"):
                return f"{what} It belongs to its connection: pass what it holds, as `await request.json()`."
            return f"{what} Pass plain data, or make the object in the replica (in the deployment's constructor)."
    return f"Could not serialize the arguments: {error}"


# --- errors -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DumpedError:
    """What user code raised, ready for the Error part: `pickled` is b"" when the exception cannot travel."""

    kind: str
    message: str
    pickled: bytes
    traceback: str


class RemoteTraceback(Exception):
    """Cause of an exception that was raised in a replica: shows where."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text.rstrip()}\n"""'

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return (type(self), (self.text,))


class RemoteUserError(ServeException):
    """User code raised an exception that could not be rebuilt here; the message has its type and words."""


def dump_error(error: BaseException) -> DumpedError:
    """`error`, raised by user code, for the wire. The exception itself travels when it survives a round trip."""
    text = "".join(traceback.format_exception(error))
    message = f"{type(error).__name__}: {error}"
    pickled = _dumped(error) or _dumped(_WithoutInit(error))
    return DumpedError(USER_ERROR, message[:_MAX_MESSAGE_CHARS], pickled, text[-_MAX_TRACEBACK_CHARS:])


def _dumped(error: BaseException | _WithoutInit) -> bytes:
    """b"" when it does not survive the trip."""
    try:
        pickled = dump_value(error)
        load_value(pickled)
    except Exception:
        return b""
    return pickled if len(pickled) <= _MAX_ERROR_BYTES else b""


class _WithoutInit:
    """An exception whose `__init__` takes other arguments than it hands on, as many do: pickle would call it with those
    that it handed on, and fail. So it is made again without it, from `args` and its attributes."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __reduce__(self) -> tuple[Any, ...]:
        return _made_again, (type(self._error), self._error.args, dict(vars(self._error)))


def _made_again(kind: type[BaseException], args: tuple[Any, ...], attributes: dict[str, Any]) -> BaseException:
    error = kind.__new__(kind, *args)
    error.args = args
    vars(error).update(attributes)
    return error


def load_error(pickled: bytes, message: str = "", traceback: str = "") -> BaseException:
    """The user's own exception, with the remote traceback as its cause; RemoteUserError when it cannot be rebuilt."""
    error: BaseException | None = None
    if pickled:
        try:
            error = load_value(pickled)
        except Exception as reason:  # its module may be missing here
            message = f"{message} (its exception cannot be rebuilt here: {reason})"
    if not isinstance(error, BaseException):
        error = RemoteUserError(message or "user code raised an exception")
    if traceback:
        error.__cause__ = RemoteTraceback(traceback)
    return error
