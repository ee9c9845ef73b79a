"""The agent's side of the launcher: requests as coroutines, ends of processes as a queue.

    async with asyncio.timeout(5):
        launcher = await LauncherClient.connect(state)
        handle = await launcher.spawn(spec)
        exit_ = await launcher.exits.get()

One connection per client; when it is lost, `closed` is set, every open request fails with UnavailableError and the
client is done for: `agents/launcher_link` connects anew.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec

from serve_rt.agents.launcher.lines import MAX_LINE_BYTES, MAX_UNREAD_BYTES, error_from, line
from serve_rt.agents.launcher.records import Exit, Handle, LauncherStatus, SpawnSpec
from serve_rt.agents.launcher.starting import start_launcher
from serve_rt.config.paths import StateDir
from serve_rt.errors import ConfigError, UnavailableError

log = logging.getLogger(__name__)
T = TypeVar("T")
CALL_S = 30.0
_CONNECT_TRIES = 5


class LauncherClient:
    """*Resources*: `close()`; the launcher and its children go on. `shutdown()` ends them too."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.exits: asyncio.Queue[Exit] = asyncio.Queue()  # as many as there are processes, which are limited
        self.closed = asyncio.Event()
        self._reader, self._writer = reader, writer
        self._numbers = itertools.count(1)
        self._open: dict[int, asyncio.Future[Any]] = {}  # Any: JSON
        self._reading = asyncio.create_task(self._read(), name="launcher client: read")

    @staticmethod
    async def connect(state: StateDir, *, start_if_absent: bool = True) -> LauncherClient:
        """*Errors*: UnavailableError when no launcher answers and none could be started."""
        path = str(state.launcher_socket)
        for attempt in range(_CONNECT_TRIES):
            try:
                client = LauncherClient(*await asyncio.open_unix_connection(path, limit=MAX_UNREAD_BYTES))
                return await client._greeted()
            except (OSError, UnavailableError) as error:
                if attempt == _CONNECT_TRIES - 1 or not start_if_absent:
                    raise UnavailableError(
                        f"no launcher answers at {path} ({error}): see {state.logs / 'launcher.log'}"
                    ) from error
            await start_launcher(state)
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _greeted(self) -> LauncherClient:
        """The kernel completes connections to a launcher that is being killed: only an answer proves that it lives."""
        try:
            await self.status()
        except BaseException:
            await self.close()
            raise
        return self

    # --- requests -------------------------------------------------------------------------------------------------

    async def spawn(self, spec: SpawnSpec) -> Handle:
        """The process runs, or has run: asked twice for one (name, incarnation), the first outcome.

        *Errors*: ConflictError for an incarnation that is over; UnavailableError when it could not be forked.
        """
        if len(msgspec.json.encode(spec)) > MAX_LINE_BYTES // 2:
            raise ConfigError(
                f"the start of {spec.name} is longer than {MAX_LINE_BYTES // 2} bytes: what is in its env?"
            )
        handle: Handle = await self._ask("spawn", Handle, spec=msgspec.to_builtins(spec))
        return handle

    async def handles(self) -> tuple[Handle, ...]:
        """Everything alive, or exited and not forgotten."""
        handles: tuple[Handle, ...] = await self._ask("handles", tuple[Handle, ...])
        return handles

    async def signal(self, name: str, incarnation: int, signum: int) -> bool:
        """To the process alone; false when it is not there any more."""
        was_there: bool = await self._ask("signal", bool, name=name, incarnation=incarnation, signum=int(signum))
        return was_there

    async def kill_group(self, name: str, incarnation: int) -> None:
        """SIGKILL to the process, its session, its descendants and what it left behind; gone on return.

        *Errors*: UnavailableError naming what does not end.
        """
        await self._ask("kill_group", None, name=name, incarnation=incarnation)

    async def forget(self, name: str, incarnation: int) -> None:
        """Remove the handle of an exited process. *Errors*: ConflictError while it runs."""
        await self._ask("forget", None, name=name, incarnation=incarnation)

    async def bind_http(self, host: str, port: int, slots: int) -> int:
        """One listening socket per worker slot; the port. *Errors*: ConflictError naming who holds it."""
        bound: int = await self._ask("bind_http", int, host=host, port=port, slots=slots)
        return bound

    async def unbind_http(self) -> None:
        """Close the listening sockets here; workers that have them end on their own."""
        await self._ask("unbind_http", None)

    async def preload(self, modules: Iterable[str]) -> None:
        """Constructors imported these: have the next replicas forked with them. Returns at once."""
        wanted = list(modules)
        for start in range(0, len(wanted), 5000):
            await self._ask("preload", None, modules=wanted[start : start + 5000])

    async def status(self) -> LauncherStatus:
        status: LauncherStatus = await self._ask("status", LauncherStatus)
        return status

    async def shutdown(self) -> None:
        """End the launcher and all that is left of its children; nothing of them runs on return."""
        try:
            await self._ask("shutdown", None)
            async with asyncio.timeout(CALL_S):
                await self.closed.wait()
        except UnavailableError:
            if not self.closed.is_set():
                raise
        finally:
            await self.close()

    async def close(self) -> None:
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        self._lost()

    async def _ask(self, operation: str, kind: Any, **fields: object) -> Any:  # Any: what `kind` says
        if self.closed.is_set():
            raise UnavailableError("the connection to the launcher is lost")
        number = next(self._numbers)
        answer = self._open[number] = asyncio.get_running_loop().create_future()
        try:
            self._writer.write(line({"id": number, "op": operation, **fields}))
            async with asyncio.timeout(CALL_S):
                return msgspec.convert(await answer, kind)
        except TimeoutError as error:
            raise UnavailableError(f"the launcher did not answer {operation!r} within {CALL_S:g} s") from error
        finally:
            self._open.pop(number, None)

    # --- what arrives ---------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        try:
            while text := await self._reader.readline():
                self._take(json.loads(text))
        except (OSError, ValueError, msgspec.ValidationError) as error:
            log.error("the launcher's line is broken: %r", error, extra={"action": "launcher_line_broken"})
        finally:
            self._lost()

    def _take(self, message: dict[str, Any]) -> None:
        if "exit" in message:
            self.exits.put_nowait(msgspec.convert(message["exit"], Exit))
            return
        answer = self._open.get(message["id"])
        if answer is None or answer.done():
            return  # asked by somebody who was cancelled
        if "error" in message:
            answer.set_exception(error_from(message["error"]))
        else:
            answer.set_result(message["result"])

    def _lost(self) -> None:
        self.closed.set()
        self._writer.close()
        for answer in self._open.values():
            if not answer.done():
                answer.set_exception(UnavailableError("the connection to the launcher was lost"))
