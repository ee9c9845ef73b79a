"""uvicorn's WebSocket protocol, with the limits it lacks.

Measured without: a message of empty fragments grew for ever, pongs piled up for a client that pings and does not read,
one that stops reading was waited for without end, and a handshake that websockets refuses raised into the event loop.
"""

from __future__ import annotations

import asyncio
import logging

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode, Frame

from serve_rt.proxy.answers import raw_answer
from serve_rt.proxy.limits import Limits

log = logging.getLogger(__name__)


class ProxyWebSocketProtocol(WebSocketsSansIOProtocol):
    """One WebSocket. `HttpServer` makes a subclass whose class attribute names its limits."""

    limits: Limits
    _stalled: asyncio.TimerHandle | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._readable_again()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self.handshake_initiated:
            super().data_received(data)
            return
        try:
            super().data_received(data)
        except Exception as error:  # whatever websockets finds wrong with a head that our parser took
            log.info("not a WebSocket handshake: %s", error, extra={"action": "handshake_refused"})
            if not self.handshake_initiated:
                self.transport.write(raw_answer(400))
            self.transport.close()

    # --- a client that does not read ------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self.loop.call_later(self.limits.write_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._readable_again()

    def _readable_again(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def handle_ping(self) -> None:
        """The pong is written already, into `conn`. It is dropped for a client that reads nothing."""
        output = self.conn.data_to_send()
        if self.writable.is_set():
            self.transport.write(b"".join(output))

    # --- fragments ------------------------------------------------------------------------------------------------

    def handle_cont(self, event: Frame) -> None:
        if len(self.frames) >= self.limits.websocket_fragments:
            self.frames = []
            self.conn.fail(CloseCode.MESSAGE_TOO_BIG, f"more than {self.limits.websocket_fragments} fragments")
            self.handle_parser_exception()
            return
        super().handle_cont(event)
