"""The replica's side of tasks: one instance in each worker process runs the functions it is sent, one at a time.

A function comes with each call, packed by the caller as a deployment's code is; the last ones are kept opened. While a
task waits for other tasks its worker lends its place (`lending`), so that tasks that call tasks do not wait for
themselves.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from serve_rt.api.payload import unpack
from serve_rt.api.replica_context import find_replica_context
from serve_rt.work import lending

KEPT_FUNCTIONS = 256


class TaskWorker:
    def __init__(self) -> None:
        self._functions: OrderedDict[str, Callable[..., Any]] = OrderedDict()
        self._lock = threading.Lock()
        lending.begin()
        context = find_replica_context()
        if context is not None:
            context.ends_when_abandoned = True

    def run(self, digest: str, packed: bytes, /, *args: Any, **kwargs: Any) -> Any:
        """A plain function, in a thread."""
        return self._function(digest, packed)(*args, **kwargs)

    async def run_async(self, digest: str, packed: bytes, /, *args: Any, **kwargs: Any) -> Any:
        """A coroutine function, on the event loop."""
        return await self._function(digest, packed)(*args, **kwargs)

    def _function(self, digest: str, packed: bytes) -> Callable[..., Any]:
        with self._lock:
            found = self._functions.get(digest)
            if found is not None:
                self._functions.move_to_end(digest)
                return found
        opened = unpack(packed).target  # outside of the lock: it may import torch
        with self._lock:
            self._functions[digest] = opened
            if len(self._functions) > KEPT_FUNCTIONS:
                self._functions.popitem(last=False)
        return opened
