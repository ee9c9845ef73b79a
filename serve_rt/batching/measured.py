"""What is counted of batches, under Ray's names; each by the batched function's name. Called by `queue`."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any, Protocol
from weakref import WeakSet

from serve_rt.observe.measures import Measure, measures

_MS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0)
_LABELS = ("function_name",)
_WAIT = Measure("serve_batch_wait_time_ms", "How long requests waited for their batch to start.", _LABELS, _MS)
_TOOK = Measure("serve_batch_execution_time_ms", "How long the batched function ran.", _LABELS, _MS)
_SIZE = Measure(
    "serve_actual_batch_size", "Requests in each batch.", _LABELS, (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
)
_FULL = Measure(
    "serve_batch_utilization_percent",
    "Requests of each batch in percent of max_batch_size.",
    _LABELS,
    (5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 95.0, 99.0, 100.0),
)
_DONE = Measure("serve_batches_processed", "Batches that were run.", _LABELS)
_WAITING = Measure("serve_batch_queue_length", "Requests that wait for their batch.", _LABELS)


class _Queue(Protocol):
    name: str

    @property
    def waiting(self) -> int: ...


_lock = threading.Lock()
_queues: WeakSet[Any] = WeakSet()  # Any: of _Queue, which a WeakSet cannot say


def watch(queue: _Queue) -> None:
    """Its length is a level from now on, for as long as it lives."""
    with _lock:
        _queues.add(queue)


def _lengths() -> Mapping[tuple[str, ...], float]:
    with _lock:
        queues: list[_Queue] = list(_queues)
    lengths = Counter[tuple[str, ...]]()
    for queue in queues:
        lengths[(queue.name,)] += queue.waiting
    return {key: float(value) for key, value in lengths.items()}


def started(name: str, waited_s: list[float], max_size: int) -> None:
    for wait_s in waited_s:
        measures.observe(_WAIT, wait_s * 1000, name)
    measures.observe(_SIZE, len(waited_s), name)
    measures.observe(_FULL, 100.0 * len(waited_s) / max_size, name)


def ended(name: str, took_s: float) -> None:
    measures.observe(_TOOK, took_s * 1000, name)
    measures.count(_DONE, name)


measures.level(_WAITING, _lengths)
