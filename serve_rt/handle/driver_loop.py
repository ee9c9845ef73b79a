"""The one thread and event loop of a driver: everything of gRPC lives there, calls from any thread or loop go there.

A daemon thread, so that a script that ends does not wait for it. A child forked before the first use gets a loop of its
own. One forked after it is refused with a sentence: grpc does not survive a fork (tried: its poller thread is gone, its
fork handlers are skipped while it polls, and every call hangs).
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from serve_rt.errors import ServeException

T = TypeVar("T")

_lock = threading.Lock()
_current: DriverLoop | None = None
_forked_too_late = False


class DriverLoop:
    def __init__(self) -> None:
        self.loop = _new_loop()
        self._thread = threading.Thread(target=self._run, name="serve-driver", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def run(self, coro: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
        """Run `coro` on the loop and wait for it here; Ctrl-C cancels it.

        *Errors*: RuntimeError when called on the loop itself, which would wait for itself.
        """
        if threading.current_thread() is self._thread:
            coro.close()
            raise RuntimeError("a blocking call was made on serve's own event loop")
        future = asyncio.run_coroutine_threadsafe(coro, self.loop)
        try:
            return future.result(timeout_s)
        except (KeyboardInterrupt, concurrent.futures.TimeoutError):
            future.cancel()
            raise


def driver_loop() -> DriverLoop:
    """This process's loop, started at the first call.

    *Errors*: ServeException in a process that was forked from one that had a loop.
    """
    global _current
    if _forked_too_late:
        raise ServeException(
            "this process was forked from one that was using serve already, and gRPC does not survive a fork: start "
            'processes with multiprocessing.get_context("spawn"), or fork before the first use of serve'
        )
    with _lock:
        if _current is None:
            _current = DriverLoop()
        return _current


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # not Linux: local testing mode needs no speed
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def _after_fork_in_child() -> None:
    global _lock, _current, _forked_too_late
    _forked_too_late = _forked_too_late or _current is not None
    _lock = threading.Lock()  # the parent may have held it
    _current = None


os.register_at_fork(after_in_child=_after_fork_in_child)
