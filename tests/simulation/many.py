"""Many stories at once: one process per core tells them, each of them as `story.tell` would alone.

A seed's story depends on nothing but the seed, so which process tells it, and after which others, changes nothing.
"""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
from collections.abc import Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace
from types import TracebackType
from unittest.mock import patch

from tests.simulation.planted import BUGS, Found, hunt
from tests.simulation.story import Told, tell

KEPT_LINES = 60
"""Of a history that nobody asked for: what a report shows."""


class Stories:
    """*Resources*: a context manager; on leaving, its processes have ended."""

    def __init__(self, seeds: Iterable[int]) -> None:
        context = multiprocessing.get_context("spawn")  # this process has threads that a fork would leave behind
        self._pool = ProcessPoolExecutor(max(1, os.cpu_count() or 1), context, initializer=_prepare)
        self._environment = patch.dict(os.environ, PYTHONHASHSEED="0")  # as `python -m tests.simulation.story` has it
        self._environment.start()
        self._told = {seed: self._pool.submit(_tell, seed) for seed in seeds}

    def told(self, seed: int) -> Told:
        """Waits until it is."""
        return self.future(seed).result()

    def future(self, seed: int) -> Future[Told]:
        if seed not in self._told:
            self._told[seed] = self._pool.submit(_tell, seed)
        return self._told[seed]

    def hunt(self, bug: str, seeds: range) -> Future[Found | None]:
        """Stories with a planted bug, one after another, until one breaks."""
        return self._pool.submit(_hunt, bug, seeds)

    def __enter__(self) -> Stories:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._environment.stop()


def _prepare() -> None:
    logging.disable(logging.CRITICAL)  # the history says more
    gc.collect()
    gc.freeze()
    gc.disable()


def _hunt(bug: str, seeds: range) -> Found | None:
    return hunt(next(each for each in BUGS if each.name == bug), seeds)


def _tell(seed: int) -> Told:
    told = tell(seed)
    gc.collect()
    return replace(told, history=told.history[-KEPT_LINES:])
