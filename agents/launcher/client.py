"""How an agent commands the launcher: one connection, numbered requests, ends of processes as they come.

`connect` starts a launcher when none answers. *Resources*: `close()` ends the connection and leaves the launcher and
its children alone; `shutdown()` ends them.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys

from serve_rt.agents.launcher import protocol
from serve_rt.agents.launcher.protocol import Command, LineBuffer, Reply, Request
from serve_rt.agents.launcher.records import Exit, Handle, LauncherStatus, SpawnSpec
from serve_rt.config.paths import StateDir
from serve_rt.errors import ServeException, UnavailableError

START_S = 20.0
CALL_S = 30.0
_POLL_S = 0.005


class LauncherClient:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self.exits: asyncio.Queue[Exit] = asyncio.Queue()
        self.closed = asyncio.Event()
        self._reading = asyncio.create_task(self._read(), name="launcher client: read")

    @staticmethod
    async def connect(state: StateDir, *, start_if_absent: bool = True) -> LauncherClient:
        """*Errors*: UnavailableError when no launcher answers (and none could be started within START_S)."""
        path = str(state.launcher_socket)
        starting: subprocess.Popen[bytes] | None = None
        give_up = asyncio.get_running_loop().time() + START_S
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(path, limit=protocol.MAX_LINE_BYTES)
                return LauncherClient(reader, writer)
            except OSError as error:
                if not start_if_absent:
                    raise UnavailableError(f"no launcher answers on {path}") from error
            if starting is None:
                starting = _start(state)
            elif starting.poll() not in (None, 0):
                raise UnavailableError(
                    f"the launcher ended with code {starting.returncode}: see {state.logs}/launcher.log"
                )
            if asyncio.get_running_loop().time() > give_up:
                raise UnavailableError(f"the launcher did not listen on {path} within {START_S:g} s")
            await asyncio.sleep(_POLL_S)

    async def spawn(self, spec: SpawnSpec) -> Handle:
        """Start a process; the same (name, incarnation) again gives the first outcome. *Errors*: ConflictError."""
        handle = (await self._call(protocol.Spawn(spec))).handle
        assert handle is not None
        return handle

    async def handles(self) -> tuple[Handle, ...]:
        """All processes that run or whose end was not yet forgotten."""
        return (await self._call(protocol.ListHandles())).handles

    async def signal(self, name: str, incarnation: int, signum: int) -> bool:
        """False when it had ended. *Errors*: NotFoundError."""
        return bool((await self._call(protocol.Signal(name, incarnation, signum))).number)

    async def kill_group(self, name: str, incarnation: int) -> None:
        """SIGKILL the process and everything in its session. *Errors*: NotFoundError."""
        await self._call(protocol.KillGroup(name, incarnation))

    async def forget(self, name: str, incarnation: int) -> None:
        """Remove the handle of an ended process. *Errors*: ConflictError when it runs."""
        await self._call(protocol.Forget(name, incarnation))

    async def bind_http(self, host: str, port: int, slots: int) -> int:
        """Have a listening socket for each proxy worker; the port. *Errors*: ConflictError naming the holder."""
        return (await self._call(protocol.BindHttp(host, port, slots))).number

    async def preload(self, modules: tuple[str, ...]) -> None:
        """Have later replicas find these modules imported."""
        await self._call(protocol.Preload(tuple(modules)))

    async def status(self) -> LauncherStatus:
        status = (await self._call(protocol.Status())).status
        assert status is not None
        return status

    async def shutdown(self) -> None:
        """End every process and the launcher."""
        try:
            await self._call(protocol.Shutdown())
        except UnavailableError:
            pass  # it is gone, which is what we want
        await self.close()

    async def close(self) -> None:
        self._reading.cancel()
        self._writer.close()
        await asyncio.gather(self._reading, return_exceptions=True)
        self._end()

    async def _call(self, command: Command) -> Reply:
        if self.closed.is_set():
            raise UnavailableError("the connection to the launcher is lost")
        number = next(self._numbers)
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            self._writer.write(protocol.line(Request(number, command)))
            async with asyncio.timeout(CALL_S):
                reply = await answer
        except TimeoutError as error:
            raise UnavailableError(f"the launcher did not answer within {CALL_S:g} s") from error
        finally:
            self._waiting.pop(number, None)
        if reply.error:
            raise protocol.error_of(reply)
        return reply

    async def _read(self) -> None:
        buffer = LineBuffer()
        try:
            while data := await self._reader.read(1 << 16):
                for text in buffer.feed(data):
                    self._take(protocol.reply_decoder.decode(text))
        except (OSError, ServeException):
            pass
        finally:
            self._writer.close()
            self._end()

    def _take(self, reply: Reply) -> None:
        if reply.exit is not None:
            self.exits.put_nowait(reply.exit)
        elif (answer := self._waiting.get(reply.id)) is not None and not answer.done():
            answer.set_result(reply)

    def _end(self) -> None:
        self.closed.set()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(UnavailableError("the launcher died under the call"))


def _start(state: StateDir) -> subprocess.Popen[bytes]:
    """A detached launcher: own session, no terminal, its log in the state dir."""
    state.logs.mkdir(mode=0o700, parents=True, exist_ok=True)
    log = os.open(state.logs / "launcher.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "serve_rt.agents.launcher.main", "--state-dir", str(state.path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
        )
    finally:
        os.close(log)
