"""Runs the user's hooks (`reconfigure`, `check_health`, `__del__`) for the main loop, with a time limit.

Async hooks run on the user loop, sync ones in a thread of their own: not the pool's, which busy handlers may hold, and
not the user loop, which they would block for the requests.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from typing import Any

from serve_rt.replica.user_code import is_async
from serve_rt.replica.user_loop import UserLoop


async def run_hook(user_loop: UserLoop, hook: Callable[..., Any], *args: Any, timeout_s: float | None) -> Any:
    """What the hook returned.

    *Errors*: what the hook raised; TimeoutError after `timeout_s` (a sync hook then goes on in its thread, unwatched).
    """
    async with asyncio.timeout(timeout_s):
        if is_async(hook):
            return await _on_user_loop(user_loop, hook, *args)
        result = await _in_own_thread(hook, *args)
        if inspect.isawaitable(result):
            return await _on_user_loop(user_loop, lambda: result)
        return result


async def _on_user_loop(user_loop: UserLoop, hook: Callable[..., Any], *args: Any) -> Any:
    async def call() -> Any:
        return await hook(*args)

    return await user_loop.run(call, name=f"hook {getattr(hook, '__name__', 'of the user')}")


async def _in_own_thread(hook: Callable[..., Any], *args: Any) -> Any:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)

    def work() -> None:
        result: Any = None
        error: BaseException | None = None
        try:
            result = hook(*args)
        except StopIteration as stop:  # a future refuses this one
            error = RuntimeError(f"the hook raised {stop!r}")
        except BaseException as raised:  # user code may raise anything: it becomes the caller's
            error = raised
        try:
            loop.call_soon_threadsafe(settle, result, error)
        except RuntimeError:  # the process is ending
            pass

    threading.Thread(target=work, name="user hook", daemon=True).start()
    return await done
