"""Routes from an agent, for ever: any agent will do, and the last table on disk when none answers.

Nothing on the request path waits for this. A table stays in force until the next one comes; `age_s` says how long
nobody has confirmed it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import grpc.aio

from serve_rt.aio import Backoff, TaskOwner
from serve_rt.config.paths import write_atomically
from serve_rt.credentials import ClusterToken, control_channel
from serve_rt.errors import ConfigError
from serve_rt.model.routes import RouteTable
from serve_rt.pb import control_pb2
from serve_rt.wire import records
from serve_rt.wire.services import Stub

log = logging.getLogger(__name__)

FIRST_TABLE_TIMEOUT_S = 5.0
"""An agent that is connected and says nothing for so long (stopped, or far behind) is left for the next."""


class FeedClient:
    """*Resources*: `start` once on the loop, then `close`."""

    def __init__(
        self,
        addresses: Sequence[str],
        token: ClusterToken,
        subscriber: str,
        on_table: Callable[[RouteTable], None],
        snapshot_path: Path | None,
    ) -> None:
        self._first_addresses = tuple(addresses)
        self._token, self._on_table, self._snapshot_path = token, on_table, snapshot_path
        self.subscriber = f"{subscriber}/{os.getpid()}"
        """A successor of the same name is another one: the pid tells them apart."""
        self.agent: str | None = None
        """Address of the agent whose feed is followed now."""
        self._tasks = TaskOwner("feed")
        self._table: RouteTable | None = None
        self._confirmed_s: float | None = None
        self._connected = False
        self._unsaved: bytes | None = None
        self._saving = False

    @property
    def age_s(self) -> float | None:
        """How long ago an agent last stood behind the table; 0 while one is connected, None when none ever was."""
        if self._connected:
            return 0.0
        return time.monotonic() - self._confirmed_s if self._confirmed_s is not None else None

    def start(self) -> None:
        self._tasks.start_eternal(self._follow(), name="follow")

    async def close(self) -> None:
        await self._tasks.close()

    async def _follow(self) -> None:
        backoff = Backoff(0.05, 2.0)
        while True:
            for address in self._addresses():
                if await self._subscribe(address):
                    backoff.reset()
                    break  # the first address, the local agent, comes first again
            if self._table is None:
                self._use_snapshot()
            await asyncio.sleep(backoff.next_s())

    def _addresses(self) -> tuple[str, ...]:
        known = self._table.agents if self._table is not None else ()
        return tuple(dict.fromkeys((*self._first_addresses, *known)))

    async def _subscribe(self, address: str) -> bool:
        """Follow one agent until it is gone; whether it ever gave a table."""
        channel = control_channel(address, self._token)
        stub = Stub(channel, control_pb2.DESCRIPTOR.services_by_name["Agent"])
        call = stub.Feed(control_pb2.FeedRequest(subscriber=self.subscriber))
        silent = asyncio.get_running_loop().call_later(FIRST_TABLE_TIMEOUT_S, call.cancel)
        got_one = False
        try:
            async for update in call:
                silent.cancel()
                self._take(update.table, address)
                got_one = self._connected = True
                self.agent = address
        except asyncio.CancelledError:
            if not call.cancelled() or got_one:  # we are closing; otherwise the timer ended a silent call
                raise
        except grpc.aio.AioRpcError as error:
            if got_one:
                log.warning("lost the feed of %s: %s", address, error.details(), extra={"action": "feed_lost"})
        finally:
            silent.cancel()
            self.agent = None
            if self._connected:
                self._connected, self._confirmed_s = False, time.monotonic()
            await channel.close()
        return got_one

    def _take(self, encoded: bytes, source: str) -> None:
        try:
            table = records.decode(encoded, RouteTable, source=f"route table from {source}")
        except ConfigError as error:  # of a newer version: the last table we understood stays in force
            log.error("%s", error, extra={"action": "feed_refused"})
            return
        self._table = table
        self._on_table(table)
        if self._snapshot_path is not None:
            self._unsaved = encoded
            if not self._saving:
                self._saving = True
                self._tasks.start(self._save(self._snapshot_path), name="save")

    async def _save(self, path: Path) -> None:
        """Off the loop: an fsync must not hold up requests."""
        try:
            while self._unsaved is not None:
                data, self._unsaved = self._unsaved, None
                await asyncio.to_thread(write_atomically, path, data)
        except OSError as error:  # a full disk must not take the routes away
            log.error("cannot save the routes to %s: %s", path, error, extra={"action": "snapshot_failed"})
        finally:
            self._saving = False

    def _use_snapshot(self) -> None:
        if self._snapshot_path is None:
            return
        try:
            encoded = self._snapshot_path.read_bytes()
            table = records.decode(encoded, RouteTable, source=str(self._snapshot_path))
        except FileNotFoundError:
            return
        except (OSError, ConfigError) as error:
            log.warning("cannot start from the saved routes: %s", error, extra={"action": "snapshot_damaged"})
            return
        log.warning("no agent answers: starting from the routes saved in %s", self._snapshot_path)
        self._table = table
        # The wall clock, since a file's time is one: how old the snapshot is, for `x-routes-age`.
        self._confirmed_s = time.monotonic() - max(0.0, time.time() - self._snapshot_path.stat().st_mtime)
        self._on_table(table)
