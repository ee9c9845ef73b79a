"""The agent's one line to the launcher, kept for ever: a dead launcher is replaced and asked what still runs.

Everything the agent starts, signals or sweeps goes through here. Calls made while the launcher is away wait for the
next one; a spawn asked twice gives the first outcome, so asking again is safe. Each end of a process is told to the
listener exactly once, also ends that happened while nobody listened.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from typing import TypeVar

from serve_rt.agents.launcher.client import LauncherClient
from serve_rt.agents.launcher.records import Exit, Handle, SpawnSpec
from serve_rt.aio import Backoff, TaskOwner
from serve_rt.config.paths import StateDir
from serve_rt.errors import ServeException, UnavailableError

log = logging.getLogger(__name__)
T = TypeVar("T")
CALL_S = 30.0
NEXT_LAUNCHER_S = 5.0
Connect = Callable[[StateDir], Awaitable[LauncherClient]]
"""Connects to the node's launcher, starting one if there is none."""


class LauncherLink:
    """*Resources*: `close()` ends the line; the launcher and its children go on. `shutdown()` ends the launcher."""

    def __init__(self, state: StateDir, connect: Connect = LauncherClient.connect) -> None:
        self._state, self._connect = state, connect
        self._client: LauncherClient | None = None
        self._connected = asyncio.Event()
        self._told: set[tuple[str, int]] = set()
        self._sockets: list[tuple[str, int, int]] = []
        self._tasks = TaskOwner("launcher link", on_failure=lambda error: self.on_broken(error))
        self.on_exit: Callable[[Exit], None] = lambda _exit: None
        self.on_reconnected: Callable[[tuple[Handle, ...]], None] = lambda _handles: None
        self.on_broken: Callable[[BaseException], None] = lambda _error: None
        """Exits will not be heard any more, through a bug of ours: an agent that cannot hear them must not go on."""

    async def start(self) -> tuple[Handle, ...]:
        """Connect (starting a launcher if there is none); what it runs."""
        self._client = await self._connect(self._state)
        self._connected.set()
        return await self._client.handles()

    async def renew(self) -> tuple[Handle, ...]:
        """End the launcher, whose children go on, and start another; before `listen`. What it found."""
        assert self._client is not None
        status = await self._client.status()
        os.kill(status.pid, signal.SIGTERM)
        try:
            async with asyncio.timeout(CALL_S):
                await self._client.closed.wait()
        except TimeoutError as error:
            raise UnavailableError(f"the launcher (pid {status.pid}) does not step down: end it by hand") from error
        await self._client.close()
        return await self.start()

    def listen(self) -> None:
        """From now on `on_exit` is told; call it when those who care are ready."""
        self._tasks.start_eternal(self._stay_connected(), name="stay connected")

    async def spawn(self, spec: SpawnSpec) -> Handle:
        return await self._ask(lambda client: client.spawn(spec))

    async def handles(self) -> tuple[Handle, ...]:
        return await self._ask(lambda client: client.handles())

    async def signal(self, name: str, incarnation: int, signum: int) -> bool:
        return await self._ask(lambda client: client.signal(name, incarnation, signum))

    async def kill_group(self, name: str, incarnation: int) -> None:
        await self._ask(lambda client: client.kill_group(name, incarnation))

    async def forget(self, name: str, incarnation: int) -> None:
        await self._ask(lambda client: client.forget(name, incarnation))
        self._told.discard((name, incarnation))

    async def bind_http(self, host: str, port: int, slots: int) -> int:
        bound = await self._ask(lambda client: client.bind_http(host, port, slots))
        self._sockets = [(host, bound, slots)]
        return bound

    async def unbind_http(self) -> None:
        self._sockets = []
        await self._ask(lambda client: client.unbind_http())

    async def preload(self, modules: tuple[str, ...]) -> None:
        await self._ask(lambda client: client.preload(modules))

    async def state_word(self) -> str:
        """`warm`, `learning`, or "" when it does not answer at once."""
        client = self._client
        if client is None or client.closed.is_set():
            return ""
        try:
            async with asyncio.timeout(1.0):
                return (await client.status()).state
        except (ServeException, TimeoutError, OSError):
            return ""

    async def shutdown(self) -> None:
        await self._until_alive()
        await self._tasks.close()
        client, self._client = self._client, None
        if client is not None:
            await client.shutdown()

    async def _until_alive(self) -> None:
        """A launcher that died a moment ago left children: the next one must be there to be told to end them."""
        try:
            async with asyncio.timeout(NEXT_LAUNCHER_S):
                await self._ask(_alive)
        except (UnavailableError, TimeoutError) as error:
            log.error("no launcher to shut down: %s", error, extra={"action": "launcher_unreachable"})

    async def close(self) -> None:
        await self._tasks.close()
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _ask(self, call: Callable[[LauncherClient], Awaitable[T]]) -> T:
        """*Errors*: what the launcher answered; UnavailableError when none could be had in CALL_S."""
        try:
            async with asyncio.timeout(CALL_S):
                while True:
                    await self._connected.wait()
                    client = self._client
                    if client is None:
                        raise UnavailableError("the line to the launcher is closed")
                    try:
                        return await call(client)
                    except UnavailableError:
                        if not client.closed.is_set():
                            raise
                        if client is self._client:  # it died under the call: ask the next one the same
                            self._connected.clear()
                        # Another one is there already: clearing would make everybody wait for it for ever (found by
                        # simulation).
        except TimeoutError as error:
            raise UnavailableError(f"the launcher did not answer within {CALL_S:g} s") from error

    async def _stay_connected(self) -> None:
        while True:
            assert self._client is not None
            await self._pass_exits(self._client)
            self._connected.clear()
            log.warning("the launcher is gone: starting another", extra={"action": "launcher_lost"})
            await self._reconnect()

    async def _pass_exits(self, client: LauncherClient) -> None:
        """Until the connection is lost."""
        closed = asyncio.ensure_future(client.closed.wait())
        try:
            while True:
                next_exit = asyncio.ensure_future(client.exits.get())
                await asyncio.wait({closed, next_exit}, return_when=asyncio.FIRST_COMPLETED)
                if next_exit.done():
                    self._tell(next_exit.result())
                    continue
                next_exit.cancel()
                return
        finally:
            closed.cancel()

    async def _reconnect(self) -> None:
        backoff = Backoff(0.05, 2.0)
        while True:
            try:
                client = await self._connect(self._state)
                handles = await client.handles()
                for host, port, slots in self._sockets:
                    await client.bind_http(host, port, slots)
            except (ServeException, OSError) as error:
                log.error("no launcher: %s", error, extra={"action": "launcher_unreachable"})
                await asyncio.sleep(backoff.next_s())
                continue
            break
        self._client = client
        self._connected.set()
        for handle in handles:
            if handle.exited is not None:
                self._tell(handle.exited)
        self.on_reconnected(handles)

    def _tell(self, exit_: Exit) -> None:
        key = (exit_.name, exit_.incarnation)
        if key not in self._told:
            self._told.add(key)
            self.on_exit(exit_)


async def _alive(client: LauncherClient) -> None:
    if client.closed.is_set():
        raise UnavailableError("the connection to the launcher is lost")
