"""Closing under a client that still sends, or does not read: the half of `http_protocol` that knows no HTTP.

uvicorn closes a connection and thinks it gone. It is not: what is unread at that moment makes the kernel reset it, and
take our last answer away from a client that was still sending; and what is unsent keeps it for as long as its client
likes.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from serve_rt.proxy.limits import Limits

LINGER_S = 2.0
"""A refused client may go on sending so long."""
DISCARDED_BYTES = 1 << 20
"""So much of what it sends is read, and dropped."""


class BoundedClosing(HttpToolsProtocol):
    limits: Limits

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],  # Any: uvicorn's
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._refusal = 0
        """The status of our last word; nothing is heard after it."""
        self._discarded_bytes = 0
        self._stalled: asyncio.TimerHandle | None = None

    def linger(self) -> None:
        """Our last word is written: say so, hear nothing more, and close soon."""
        self._refusal = self._refusal or 400
        if self.transport.is_closing():
            return
        self._discarded_bytes = 0
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        if self._stalled is None:
            self._stalled = self.loop.call_later(LINGER_S, self.transport.abort)

    def _discard(self, size: int) -> None:
        """What was under way when we refused; whoever goes on sending may wait for the end."""
        self._discarded_bytes += size
        if self._discarded_bytes > DISCARDED_BYTES:
            self.transport.pause_reading()  # not `flow`'s: it has our last word, and may read that after its own last

    def pause_writing(self) -> None:
        super().pause_writing()
        self.bound_writing()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self._refusal:
            self._reads_again()

    def bound_writing(self) -> None:
        """Before a close, too: a transport waits without end for what it has to flush."""
        if self._stalled is None:
            self._stalled = self.loop.call_later(self.limits.write_timeout_s, self.transport.abort)

    def _reads_again(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def on_response_in_a_task(self) -> None:
        """uvicorn's own road for an answer; `write_whole` sees to its own end."""
        self.on_response_complete()
        if self.transport.is_closing():
            self.bound_writing()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self.bound_writing()
