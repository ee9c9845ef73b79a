"""The way of one node to etcd, which can be cut: a TCP relay in a thread of the test.

Cut means what a dead switch means: nothing gets through in either direction and nobody is told, no FIN and no RST.
Connections stay open, what was sent meanwhile arrives after the healing, late.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from concurrent.futures import Future
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")
_PIECE = 65536


class EtcdLink:
    """*Resources*: a context manager, or `start()` and `close()`."""

    def __init__(self, upstream: str) -> None:
        host, _, port = upstream.rpartition(":")
        self._upstream = (host, int(port))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="etcd link", daemon=True)
        self._open: asyncio.Event
        self._pipes: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server
        self.endpoint = ""
        self.held_bytes = 0
        """Read since the cut and not delivered: the proof that it bites."""

    def start(self) -> EtcdLink:
        ready: Future[str] = Future()
        self._ready = ready
        self._thread.start()
        self.endpoint = ready.result(10)
        return self

    def cut(self) -> None:
        self.held_bytes = 0
        self._loop.call_soon_threadsafe(self._open.clear)

    def heal(self) -> None:
        self._loop.call_soon_threadsafe(self._open.set)

    def close(self) -> None:
        if self._loop.is_running():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(5)

    def __enter__(self) -> EtcdLink:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._listen())
        self._loop.run_forever()
        for task in self._pipes:
            task.cancel()
        self._server.close()
        self._loop.run_until_complete(asyncio.gather(*self._pipes, return_exceptions=True))
        self._loop.close()

    async def _listen(self) -> None:
        self._open = asyncio.Event()
        self._open.set()
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self._ready.set_result(f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}")

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._pipes.add(task)
        try:
            await self._open.wait()
            there_reader, there_writer = await asyncio.open_connection(*self._upstream)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pipe(reader, there_writer))
                group.create_task(self._pipe(there_reader, writer))
        except* (OSError, asyncio.CancelledError):
            pass
        finally:
            self._pipes.discard(task)
            writer.close()

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(_PIECE):
                if not self._open.is_set():
                    self.held_bytes += len(data)
                    await self._open.wait()
                writer.write(data)
                await writer.drain()
        finally:
            with contextlib.suppress(OSError):
                writer.close()
