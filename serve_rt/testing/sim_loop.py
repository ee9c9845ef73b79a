"""A seeded event loop with virtual time: real asyncio code, no real waiting, one order of events per seed.

    loop = SimLoop(seed=7)
    agent = SimProcess(loop, "agent a", node="a")
    agent.start(main(), name="main"); loop.run_until_complete(something)

Time moves only when nothing is ready to run. What is ready at one moment runs in an order drawn from the seed: code
that relies on luck fails for some seed, and fails again for the same one. Every task belongs to the `SimProcess` it was
begun in, which can be paused (SIGSTOP: its timers run out meanwhile) and killed (no `finally` runs) as a whole. There
are no threads: `to_thread` runs at once. Connections are `sim_network`'s business.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import random
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, cast

from serve_rt.errors import ServeException

_START_S = 1000.0
_WALL_START_S = 1_700_000_000.0
_MOMENT_S = 1e-6
"""Code takes time: who waits for less than a float can tell must not wait for ever."""

_process: contextvars.ContextVar[SimProcess | None] = contextvars.ContextVar("simulated process", default=None)


class Stalled(ServeException):
    """Nothing is ready and nothing is due: whoever waits now waits for ever."""


class SimProcess:
    """What runs together and stops together. Tasks and timers begun in it, or by what it began, are its own."""

    def __init__(self, loop: SimLoop, name: str, node: str) -> None:
        self.loop, self.name, self.node = loop, name, node
        self.alive = True
        self.paused = False
        self.on_end: list[Callable[[], None]] = []
        """Told once when it is killed: what the kernel would close."""
        self.resumed = asyncio.Event()
        self.resumed.set()
        self._held: list[asyncio.Handle] = []
        self._context = contextvars.copy_context()
        self._context.run(_process.set, self)

    def start(self, coro: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
        return self._context.copy().run(self.loop.create_task, coro, name=f"{self.name}: {name}")

    def context_var(self, variable: contextvars.ContextVar[Any], value: object) -> None:
        """What all code of this process finds in `variable`."""
        self._context.run(variable.set, value)

    def do(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call `function` as code of this process."""
        return self._context.copy().run(function, *arguments)

    def pause(self) -> None:
        """As SIGSTOP: nothing of it runs; what falls due meanwhile is due at once when it goes on."""
        if self.alive and not self.paused:
            self.paused = True
            self.resumed.clear()

    def resume(self) -> None:
        if self.paused:
            self.paused = False
            self.resumed.set()
            held, self._held = self._held, []
            for handle in held:
                self.loop.hold_no_longer(handle)

    def kill(self) -> None:
        """As SIGKILL: its tasks never run again."""
        if not self.alive:
            return
        self.alive = False
        self.paused = False
        for tell in self.on_end:
            tell()

    def hold(self, handle: asyncio.Handle) -> None:
        """Until it is resumed; what a dead process would have run waits for the end of the simulation."""
        self._held.append(handle)

    def bury(self) -> None:
        """The simulation is over: its tasks may run, to end."""
        self.alive, self.paused = True, True
        self.resume()

    def __repr__(self) -> str:
        return f"<SimProcess {self.name} {'paused' if self.paused else 'alive' if self.alive else 'dead'}>"


def current_process() -> SimProcess | None:
    """The simulated process whose code runs now; None in the simulation's own code."""
    return _process.get()


class _Task(asyncio.Task[Any]):
    """Numbered: sets of tasks are walked in an order that does not depend on addresses."""

    def __init__(self, coro: Any, number: int, process: SimProcess | None, **how: Any) -> None:
        self._number, self.process = number, process
        super().__init__(coro, **how)

    def __hash__(self) -> int:
        return self._number


class _Future(asyncio.Future[Any]):
    """Numbered when a set first asks: most futures are in none."""

    _number = 0

    def __hash__(self) -> int:
        if not self._number:
            self._number = cast(SimLoop, self.get_loop()).next_number()
        return self._number


class SimLoop(asyncio.BaseEventLoop):
    """*Resources*: `end()` ends every task, then `close()`."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = random.Random(seed)
        self.steps = 0
        self.connect: Callable[[str, int], None] = _refuse
        """Asked by `asyncio.open_connection`: raises when nobody listens there."""
        self._now_s = _START_S
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        """In the place of BaseEventLoop's own heap, whose handles compare themselves in Python."""
        self._numbers = 0
        self._every: set[_Task] = set()

    # --- time -----------------------------------------------------------------------------------------------------

    def time(self) -> float:
        return self._now_s

    def call_at(  # type: ignore[override]  # as its callers use it
        self, when: float, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, self.next_number(), timer))
        return timer

    def _timer_handle_cancelled(self, handle: object) -> None:
        """It stays in the heap until it is due."""

    def _run_once(self) -> None:
        """One moment: all that is ready now, in the seed's order."""
        ready: Any = self._ready  # type: ignore[attr-defined]  # BaseEventLoop's own queue
        timers = self._timers
        self._now_s += _MOMENT_S
        if not ready and not self._stopping:  # type: ignore[attr-defined]
            self._now_s = max(self._now_s, self._next_due())
        while timers and timers[0][0] <= self._now_s:
            ready.append(heapq.heappop(timers)[2])
        batch: list[Any] = list(ready)  # Any: what a handle holds is asyncio's own business
        ready.clear()
        if len(batch) > 1:
            self.random.shuffle(batch)
        for handle in batch:
            if handle._cancelled:
                continue
            process = handle._context.get(_process)
            if process is not None and (process.paused or not process.alive):
                process.hold(handle)
                continue
            self.steps += 1
            try:
                handle._context.run(handle._callback, *handle._args)
            except Exception as error:  # as Handle._run does, without its frame
                self.call_exception_handler({"message": f"{handle!r} raised", "exception": error, "handle": handle})

    def _next_due(self) -> float:
        timers = self._timers
        while timers:
            if not timers[0][2].cancelled():
                return timers[0][0]
            heapq.heappop(timers)
        raise Stalled("nothing is ready and nothing is due: the simulation waits for ever")

    def hold_no_longer(self, handle: asyncio.Handle) -> None:
        self._ready.append(handle)  # type: ignore[attr-defined]

    # --- what BaseEventLoop asks of a loop ------------------------------------------------------------------------

    def create_task(self, coro: Any, *, name: object = None, context: Any = None) -> _Task:
        process = context.get(_process) if context is not None else _process.get()
        task = _Task(coro, self.next_number(), process, loop=self, name=name, context=context)
        self._every.add(task)
        if len(self._every) > 4096:
            self._every = {each for each in self._every if not each.done()}
        return task

    def create_future(self) -> _Future:
        return _Future(loop=self)

    def next_number(self) -> int:
        self._numbers += 1
        return self._numbers

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]  # as any thread
        """At once, in this thread: a simulated process has no threads."""
        done = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:  # the caller gets it, as from a thread
            done.set_exception(error)
        return done

    async def create_connection(self, protocol_factory: Any, host: Any = None, port: Any = None, **_: Any) -> Any:
        """Enough for `asyncio.open_connection` to learn whether somebody listens."""
        await asyncio.sleep(0)
        self.connect(str(host), int(port))
        return _Nothing(), protocol_factory()

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> Any:  # type: ignore[override]
        return self.call_soon(callback, *args, context=context)

    def _process_events(self, event_list: object) -> None:
        """There are none but timers."""

    def _write_to_self(self) -> None:
        """Nobody sleeps in a selector."""

    # --- the end --------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """Let every task end, those of killed processes too: nothing is left for the garbage collector to find."""
        for _ in range(20):
            left = [task for task in self._every if not task.done()]
            if not left:
                break
            for task in sorted(left, key=hash):
                if task.process is not None:
                    task.process.bury()
                task.cancel()
            self.run_until_complete(asyncio.sleep(60.0))
        self._every.clear()


class LoopClock:
    """A `Clock` that shows the loop's time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def monotonic(self) -> float:
        return self._loop.time()

    def wall(self) -> float:
        return _WALL_START_S + self._loop.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class _Nothing(asyncio.Transport):
    """A connection that is closed as soon as it is known to be possible."""

    def close(self) -> None:
        """Nothing was open."""

    def is_closing(self) -> bool:
        return True


def _refuse(host: str, port: int) -> NoReturn:
    raise ConnectionRefusedError(f"nobody listens at {host}:{port}")
