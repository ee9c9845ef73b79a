"""A real launcher per test, on a short path, that leaves nothing behind whatever the test did."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from serve_rt.agents.launcher.client import LauncherClient
from serve_rt.agents.launcher.processes import stat_of
from serve_rt.agents.launcher.records import Exit, Handle, ProcessKind, SpawnSpec
from serve_rt.config.paths import StateDir
from serve_rt.errors import ServeException

LIMIT_S = 30.0
ROOT = str(Path(__file__).parents[2])


def is_alive(pid: int) -> bool:
    stat = stat_of(pid)
    return stat is not None and stat.state not in "ZX"


class Node:
    """A state dir and what may be started in it."""

    def __init__(self, state: StateDir) -> None:
        self.state = state
        self._outs = 0

    def spec(
        self,
        entry: str,
        name: str = "app#one#abcdef",
        incarnation: int = 1,
        *,
        kind: ProcessKind = ProcessKind.REPLICA,
        start: dict[str, Any] | None = None,
        **more: Any,
    ) -> SpawnSpec:
        """`out` is filled in: see `told`."""
        more.setdefault("log_path", str(self.state.logs / f"{name}.log"))
        more.setdefault("title", f"test {name}")
        return SpawnSpec(
            kind=kind,
            name=name,
            incarnation=incarnation,
            entry=f"tests.launcher.entries:{entry}",
            start={"out": str(self.out(name, incarnation)), **(start or {})},
            sys_path=(ROOT,),
            **more,
        )

    def out(self, name: str, incarnation: int) -> Path:
        return self.state.path / f"{name}.{incarnation}.told"

    async def told(self, spec: SpawnSpec, timeout_s: float = 10.0) -> dict[str, Any]:
        """What the entry wrote."""
        path = self.out(spec.name, spec.incarnation)
        await until(path.exists, f"{spec.name} tells; see {spec.log_path}", timeout_s)
        facts: dict[str, Any] = json.loads(path.read_text())
        return facts

    def log(self, spec: SpawnSpec) -> str:
        path = Path(spec.log_path)
        return path.read_text() if path.exists() else ""

    async def connect(self) -> LauncherClient:
        return await LauncherClient.connect(self.state)

    @asynccontextmanager
    async def launcher(self) -> AsyncIterator[LauncherClient]:
        client = await self.connect()
        try:
            yield client
        finally:
            await client.close()

    async def end(self) -> None:
        """Everything of this state dir; a test may have left it in any condition."""
        for _ in range(3):
            try:
                await (await self.connect()).shutdown()
                return
            except ServeException as error:
                print(f"again: {error}")


@pytest.fixture
def node() -> Iterator[Node]:
    folder = Path(tempfile.mkdtemp(prefix="srt-", dir="/tmp"))
    made = Node(StateDir(folder).create())
    yield made
    asyncio.run(asyncio.wait_for(made.end(), LIMIT_S))
    shutil.rmtree(folder)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, LIMIT_S))


async def until(holds: Callable[[], object], what: str, timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        await asyncio.sleep(0.01)


async def next_exit(client: LauncherClient, spec: SpawnSpec) -> Exit:
    async with asyncio.timeout(10):
        while True:
            exit_ = await client.exits.get()
            if (exit_.name, exit_.incarnation) == spec.key:
                return exit_


async def kill_launcher(client: LauncherClient) -> int:
    """kill -9; its pid."""
    pid = (await client.status()).pid
    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(5):
        await client.closed.wait()
    return pid


def by_name(handles: tuple[Handle, ...]) -> dict[str, Handle]:
    return {handle.name: handle for handle in handles}
