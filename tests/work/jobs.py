"""Tasks of the tests, in a module of the program's own: workers import it from the code that travels."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import serve_rt as serve


@serve.task
def add(a: int, b: int = 0) -> int:
    return a + b


@serve.task
def pid() -> int:
    return os.getpid()


@serve.task
async def add_later(a: int, b: int) -> int:
    await asyncio.sleep(0)
    return a + b


@serve.task
def fail(words: str) -> None:
    raise LookupError(words)


@serve.task
def fibonacci(n: int) -> int:
    """Each waits for two others of its kind: more than there are places."""
    return n if n < 2 else sum(serve.get([fibonacci.remote(n - 1), fibonacci.remote(n - 2)]))


@serve.task
def note_and_die(path: str, times: int) -> str:
    """Dies so many times, and says how often it was run."""
    with open(path, "a") as file:
        file.write("x")
    runs = len(Path(path).read_text())
    if runs <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return f"run {runs}"


@serve.task
def fail_at_first(path: str) -> str:
    if not Path(path).exists():
        Path(path).write_text("was here")
        raise ConnectionError("not yet")
    return "done"


@serve.task
def meet(path: str, others: int) -> int:
    """Returns when so many of its kind run at the same time."""
    Path(path, str(os.getpid())).touch()
    deadline = time.monotonic() + 20
    while len(list(Path(path).iterdir())) < others:
        assert time.monotonic() < deadline, "the others never came"
        time.sleep(0.01)
    return os.getpid()


@serve.task
async def until_cancelled(path: str) -> None:
    Path(path, "began").touch()
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        Path(path, "cancelled").touch()
        raise


@serve.task
def until_asked(path: str) -> None:
    Path(path, "began").touch()
    deadline = time.monotonic() + 20
    while not serve.cancelled() and time.monotonic() < deadline:
        time.sleep(0.01)
    Path(path, "cancelled").touch()


@serve.task(num_cpus=0.2)
def deaf(path: str) -> None:
    """Does not ask whether it is cancelled."""
    Path(path, "began").touch()
    time.sleep(60)


class Sums:
    async def total(self, numbers: list[int]) -> int:
        refs = [add.remote(number, 1) for number in numbers]
        return sum(await asyncio.gather(*refs))

    def total_in_a_thread(self, numbers: list[int]) -> int:
        return sum(serve.get([add.remote(number, 1) for number in numbers]))


SUMS = serve.deployment(ray_actor_options={"num_cpus": 0.1})(Sums)
