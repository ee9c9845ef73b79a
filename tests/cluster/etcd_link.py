"""The way of one node to etcd, which can be cut: a `FaultLink` on a thread of the test's.

Cut means what a dead switch means: nothing gets through in either direction and nobody is told, no FIN and no RST.
Connections stay open, what was sent meanwhile arrives after the healing, late.
"""

from __future__ import annotations

import asyncio
import threading

from serve_rt.testing.fault_link import FaultLink


class EtcdLink:
    """*Resources*: `start()` and `close()`."""

    def __init__(self, upstream: str) -> None:
        host, _, port = upstream.rpartition(":")
        self._link = FaultLink(host, int(port))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="etcd link", daemon=True)

    @property
    def endpoint(self) -> str:
        return self._link.address

    @property
    def held_bytes(self) -> int:
        """Read since the cut and not delivered: the proof that it bites."""
        return self._link.there.bitten

    def start(self) -> EtcdLink:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._link.start(), self._loop).result(10)
        return self

    def cut(self) -> None:
        self._loop.call_soon_threadsafe(self._link.half_open)

    def heal(self) -> None:
        self._loop.call_soon_threadsafe(self._link.heal)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._link.close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()
