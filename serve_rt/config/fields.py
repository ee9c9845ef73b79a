"""Checks for the fields of configuration classes: the name, the value and the limit are in every message.

Called by the `__post_init__` of serve_rt.config.options and serve_rt.config.accepted, so a wrong value is refused where
the user wrote it and not in a replica.
"""

from __future__ import annotations


def check_number(name: str, value: object, *, least: float | None = None, above: float | None = None) -> None:
    """*Errors*: TypeError, ValueError."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {value!r}.")
    _check_range(name, value, least, above)


def check_integer(name: str, value: object, *, least: int | None = None) -> None:
    """*Errors*: TypeError, ValueError."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}.")
    _check_range(name, value, least, None)


def _check_range(name: str, value: float, least: float | None, above: float | None) -> None:
    if least is not None and not value >= least:  # a NaN is refused too
        raise ValueError(f"{name} must be >= {least:g}, got {value!r}.")
    if above is not None and not value > above:
        raise ValueError(f"{name} must be > {above:g}, got {value!r}.")


def check_text(name: str, value: object) -> None:
    """*Errors*: TypeError."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, got {value!r}.")


def check_bool(name: str, value: object) -> None:
    """*Errors*: TypeError."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}.")
