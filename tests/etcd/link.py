"""A Unix socket in front of etcd's that a test can cut, hang, or make swallow answers."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

CHUNK_BYTES = 64 * 1024


class Link:
    """Relays bytes both ways. Faults act on open connections and on new ones until mended."""

    def __init__(self, target: str) -> None:
        self._target = target.removeprefix("unix:")
        self._dir = Path(tempfile.mkdtemp(prefix="srt-", dir="/tmp"))
        self.endpoint = f"unix:{self._dir}/link"
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._flows = asyncio.Event()
        self._flows.set()
        self.answers_pass = True
        self.connections = 0
        self.asked_bytes = 0
        """Sent on to the target."""

    async def mend(self) -> None:
        self.answers_pass = True
        self._flows.set()
        if self._server is None:
            self._server = await asyncio.start_unix_server(self._accept, self.endpoint.removeprefix("unix:"))

    def hang(self) -> None:
        """Half open: connected, and nothing arrives."""
        self._flows.clear()

    async def cut(self) -> None:
        """Connections break, new ones are refused."""
        if self._server is not None:
            self._server.close()
            self._server = None
            Path(self.endpoint.removeprefix("unix:")).unlink()
        for writer in self._writers:
            writer.transport.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def close(self) -> None:
        await self.cut()
        shutil.rmtree(self._dir)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        try:
            there, back = await asyncio.open_unix_connection(self._target)
        except OSError:
            writer.close()
            return
        self._writers |= {writer, back}
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, back, answers=False))
                group.create_task(self._pump(there, writer, answers=True))
        except* (OSError, asyncio.CancelledError):
            pass
        finally:
            self._writers -= {writer, back}
            writer.transport.abort()
            back.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool) -> None:
        while data := await reader.read(CHUNK_BYTES):
            await self._flows.wait()
            if answers and not self.answers_pass:
                continue
            writer.write(data)
            await writer.drain()
            self.asked_bytes += 0 if answers else len(data)
        raise ConnectionResetError("one side closed")


@asynccontextmanager
async def link_to(target: str) -> AsyncGenerator[Link, None]:
    link = Link(target)
    await link.mend()
    try:
        yield link
    finally:
        await link.close()
