"""The line to the launcher, when what it tells breaks."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

from serve_rt.agents.launcher.client import LauncherClient
from serve_rt.agents.launcher.records import Handle
from serve_rt.agents.launcher_link import LauncherLink
from serve_rt.config.paths import StateDir
from serve_rt.errors import UnavailableError


class Line:
    """A launcher that answers and can be lost."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()
        self.exits: asyncio.Queue[Any] = asyncio.Queue()
        self.was_shut_down = False

    async def handles(self) -> tuple[Handle, ...]:
        return ()

    async def shutdown(self) -> None:
        self.was_shut_down = not self.closed.is_set()
        self.closed.set()

    async def close(self) -> None:
        self.closed.set()


async def _broken_link(folder: Path) -> list[BaseException]:
    lines: list[Line] = []

    async def connect(_state: StateDir) -> LauncherClient:
        lines.append(Line())
        return cast(LauncherClient, lines[-1])

    def fail(_handles: tuple[Handle, ...]) -> None:
        raise RuntimeError("a bug in whoever hears of it")

    link = LauncherLink(StateDir(folder), connect)
    told: asyncio.Queue[BaseException] = asyncio.Queue()
    link.on_reconnected, link.on_broken = fail, told.put_nowait
    await link.start()
    link.listen()
    lines[0].closed.set()
    async with asyncio.timeout(10):
        errors = [await told.get()]
    await link.close()
    return errors


def test_a_line_that_went_deaf_is_told(tmp_path: Path) -> None:
    [error] = asyncio.run(_broken_link(tmp_path))
    assert "a bug in whoever hears of it" in str(error)


async def _shut_down_while_it_is_replaced(folder: Path) -> list[Line]:
    """The launcher has died, the next one is being started, and the agent leaves."""
    lines: list[Line] = []
    started = asyncio.Event()

    async def connect(_state: StateDir) -> LauncherClient:
        if lines:
            await started.wait()
        lines.append(Line())
        return cast(LauncherClient, lines[-1])

    link = LauncherLink(StateDir(folder), connect)
    await link.start()
    link.listen()
    lines[0].closed.set()
    leaving = asyncio.create_task(link.shutdown())
    for _ in range(10):
        await asyncio.sleep(0)
    started.set()
    async with asyncio.timeout(10):
        await leaving
    return lines


def test_the_next_launcher_is_told_to_end_what_the_dead_one_left(tmp_path: Path) -> None:
    dead, successor = asyncio.run(_shut_down_while_it_is_replaced(tmp_path))
    assert successor.was_shut_down and not dead.was_shut_down


async def _fail_when_the_next_is_there(folder: Path) -> list[Line]:
    """A call learns of the launcher's death after the line has found the next one."""
    lines: list[Line] = []
    late = asyncio.Event()

    class SlowToFail(Line):
        async def kill_group(self, _name: str, _incarnation: int) -> None:
            if self is lines[0]:
                await late.wait()
                raise UnavailableError("the connection to the launcher was lost")

    async def connect(_state: StateDir) -> LauncherClient:
        lines.append(SlowToFail())
        return cast(LauncherClient, lines[-1])

    link = LauncherLink(StateDir(folder), connect)
    reconnected = asyncio.Event()
    link.on_reconnected = lambda _handles: reconnected.set()
    await link.start()
    link.listen()
    killing = asyncio.create_task(link.kill_group("x", 1))
    await asyncio.sleep(0)
    lines[0].closed.set()
    async with asyncio.timeout(10):
        await reconnected.wait()
        late.set()
        await killing
    await link.close()
    return lines


def test_a_call_that_fails_late_does_not_lose_the_next_launcher(tmp_path: Path) -> None:
    """Every call waited 30 s for a launcher that was there, for the rest of the agent's life."""
    assert len(asyncio.run(_fail_when_the_next_is_there(tmp_path))) == 2
