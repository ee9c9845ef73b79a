"""The thread with the event loop that user code runs on.

User code may block its loop; the main loop, which holds the streams and answers the agent, must not notice. A beat
stamps the time on the user loop, so that the main loop can say how long ago user code last let go of it. Work comes
in over `posts`; `run()` is for the few hooks whose result the main loop awaits.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import uvloop

from serve_rt.replica.crossing import Crossing
from serve_rt.replica.loop_errors import ignore_poller_noise

log = logging.getLogger(__name__)
T = TypeVar("T")
BEAT_S = 0.5
"""Two wake-ups a second in an idle replica, and half a second of doubt in `age_s`."""


class UserLoop:
    """*Resources*: the creator calls `start()` and, at the end, `stop()`; the thread is a daemon."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        self.loop.set_exception_handler(ignore_poller_noise)
        self.posts = Crossing(self.loop, "main -> user")
        self._thread = threading.Thread(target=self._run, name="user loop", daemon=True)
        self._last_beat = time.monotonic()
        self._stopping = False

    def start(self) -> None:
        self._last_beat = time.monotonic()
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.call_soon(self._beat)
        while not self._stopping:
            try:
                self.loop.run_forever()
            except BaseException:  # sys.exit() in a task that user code made ends run_forever; the replica goes on
                log.exception("a task of user code tried to end the process", extra={"action": "user_exit"})

    def _beat(self) -> None:
        self._last_beat = time.monotonic()
        self.loop.call_later(BEAT_S, self._beat)

    @property
    def thread_id(self) -> int | None:
        return self._thread.ident

    @property
    def age_s(self) -> float:
        """How long user code has held the loop; 0.0 while it lets go in time."""
        since_s = time.monotonic() - self._last_beat
        return since_s if since_s > 2 * BEAT_S else 0.0

    @property
    def blocked(self) -> bool:
        return self.age_s > 0.0

    async def run(self, work: Callable[[], Coroutine[Any, Any, T]], *, name: str) -> T:
        """Await `work()` as a task of the user loop, from the main loop; cancelling this cancels the task."""
        main = asyncio.get_running_loop()
        done: asyncio.Future[T] = main.create_future()
        started: list[asyncio.Task[T]] = []

        def start() -> None:
            task = self.loop.create_task(_contained(work), name=name)
            task.add_done_callback(lambda ended: main.call_soon_threadsafe(_copy_outcome, ended, done))
            started.append(task)

        self.posts.post(start)
        try:
            return await done
        except asyncio.CancelledError:
            self.posts.post(lambda: [task.cancel() for task in started])
            raise

    def stop(self, timeout_s: float = 1.0) -> None:
        """Stop the loop and wait for its thread; a thread that user code holds is left behind (it is a daemon)."""
        if not self._thread.is_alive():
            return
        self._stopping = True
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(timeout_s)

    def __repr__(self) -> str:
        return f"<UserLoop [{'blocked' if self.blocked else 'free'}]>"


async def _contained(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """SystemExit and KeyboardInterrupt would tear through the loop instead of reaching whoever awaits the task."""
    try:
        return await work()
    except (SystemExit, KeyboardInterrupt) as error:
        raise RuntimeError(f"user code raised {type(error).__name__}({error})") from error


def _copy_outcome(task: asyncio.Task[T], done: asyncio.Future[T]) -> None:
    if done.done():
        return
    if task.cancelled():
        done.cancel()
        return
    error = task.exception()
    if error is not None:
        done.set_exception(error)
    else:
        done.set_result(task.result())
