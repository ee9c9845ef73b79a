"""uvicorn's WebSocket protocol, with the limits it lacks.

Measured without: a message of empty fragments grew for ever, pongs piled up for a client that pings and does not read,
one that stops reading was waited for without end, and a handshake that websockets refuses raised into the event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode, Frame
from websockets.http11 import Request

from serve_rt.pb import stream_pb2 as pb
from serve_rt.proxy.answers import raw_answer
from serve_rt.proxy.limits import Limits

log = logging.getLogger(__name__)


class ProxyWebSocketProtocol(WebSocketsSansIOProtocol):
    """One WebSocket. `HttpServer` makes a subclass whose class attribute names its limits."""

    limits: Limits
    on_message: Callable[[bytes, int], bool] | None = None
    """Takes a message's bytes and kind as it is read, when it can (serve_rt.proxy.websocket); else ASGI has it."""
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

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == 101:
            self.scope["serve_rt.websocket"] = self  # type: ignore[typeddict-unknown-key]  # ASGI allows own keys

    # --- messages without ASGI: a queue, a task's step and two calls of the selector less for each ------------------

    def send_receive_event_to_app(self) -> None:
        take = self.on_message
        if take is None or self.close_sent or not self.queue.empty() or not self._taken(take):
            super().send_receive_event_to_app()

    def _taken(self, take: Callable[[bytes, int], bool]) -> bool:
        data = bytes(self.frames[0]) if len(self.frames) == 1 else b"".join(self.frames)
        kind = pb.DATA_KIND_WS_BINARY
        if self.curr_msg_data_type == "text":
            kind = pb.DATA_KIND_WS_TEXT
            if not data.isascii():
                try:
                    data.decode()
                except UnicodeDecodeError:
                    return False  # uvicorn's to close
        taken = take(data, kind)
        if taken:
            self.frames = []
        return taken

    def send_message(self, data: bytes, kind: int) -> bool:
        """Write a message at once; False when ASGI's `send` must wait, or fail. Never raises."""
        if not self.writable.is_set() or self.disconnected or self.close_sent or self.transport.is_closing():
            return False
        try:
            if kind == pb.DATA_KIND_WS_TEXT:
                self.conn.send_text(data)
            else:
                self.conn.send_binary(data)
        except Exception:  # whatever websockets holds against it, `send` will hear too
            return False
        self.transport.write(b"".join(self.conn.data_to_send()))
        return True

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
