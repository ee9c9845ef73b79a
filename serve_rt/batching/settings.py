"""How a batch is made up: validated once, changed live by the setters of the decorated function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

SizeFunction = Callable[[list[Any]], int]


@dataclass(slots=True)
class BatchSettings:
    """Not frozen: `set_max_batch_size` and `set_batch_wait_timeout_s` change what the next batch is made of."""

    max_batch_size: int = 10
    batch_wait_timeout_s: float = 0.01
    max_concurrent_batches: int = 1
    batch_size_fn: SizeFunction | None = field(default=None)

    def __post_init__(self) -> None:
        self.max_batch_size = checked_size(self.max_batch_size)
        self.batch_wait_timeout_s = checked_wait(self.batch_wait_timeout_s)
        self.max_concurrent_batches = _checked_concurrency(self.max_concurrent_batches)
        if self.batch_size_fn is not None and not callable(self.batch_size_fn):
            raise TypeError(f"batch_size_fn must be a callable or None, got {type(self.batch_size_fn)}")

    def copy(self) -> BatchSettings:
        return BatchSettings(
            self.max_batch_size, self.batch_wait_timeout_s, self.max_concurrent_batches, self.batch_size_fn
        )


def checked_size(value: object) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"max_batch_size must be integer >= 1, got {value!r}")
    if value < 1:
        raise ValueError(f"max_batch_size must be an integer >= 1, got {value}")
    return value


def checked_wait(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"batch_wait_timeout_s must be a float >= 0, got {value!r}")
    if not value >= 0:  # also not a number
        raise ValueError(f"batch_wait_timeout_s must be a float >= 0, got {value}")
    return float(value)


def _checked_concurrency(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise TypeError(f"max_concurrent_batches must be an integer >= 1, got {value!r}")
    return value
