"""One client's connection: lines in, lines out, nothing blocks. A client that floods or never reads is cut off."""

from __future__ import annotations

import logging
import selectors
import socket
from collections.abc import Callable
from typing import Any

from serve_rt.agents.launcher.lines import MAX_UNREAD_BYTES, Inbox, LineTooLong, error_record, line
from serve_rt.agents.launcher.reactor import Reactor
from serve_rt.errors import ServeException

log = logging.getLogger(__name__)
_READ_BYTES = 1 << 18


class Connection:
    def __init__(
        self,
        reactor: Reactor,
        sock: socket.socket,
        on_line: Callable[[Connection, bytes], None],
        on_closed: Callable[[Connection], None],
    ) -> None:
        self.closed = False
        self._reactor, self._socket = reactor, sock
        self._on_line, self._on_closed = on_line, on_closed
        self._inbox = Inbox()
        self._outbox = bytearray()
        sock.setblocking(False)
        reactor.watch(sock, selectors.EVENT_READ, self._ready)

    def send(self, message: dict[str, Any]) -> None:  # Any: JSON
        if self.closed:
            return
        self._outbox += line(message)
        self._flush()
        if len(self._outbox) > MAX_UNREAD_BYTES:
            log.warning("a client does not read: cut off", extra={"action": "client_cut"})
            self.close()

    def refuse(self, request: int | None, error: ServeException) -> None:
        self.send({"id": request, "error": error_record(error)})

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._reactor.forget(self._socket)
        self._socket.close()
        self._on_closed(self)

    def flush_before_end(self, timeout_s: float) -> None:
        """The launcher ends now: give the last answer a chance to leave."""
        if not self.closed and self._outbox:
            self._socket.settimeout(timeout_s)
            try:
                self._socket.sendall(bytes(self._outbox))
            except OSError:
                pass  # it is gone as well

    def _ready(self, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._flush()
        if events & selectors.EVENT_READ and not self.closed:
            self._read()

    def _read(self) -> None:
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        try:
            lines = self._inbox.feed(data)
        except LineTooLong as error:
            self.refuse(None, error)
            self.close()
            return
        for one in lines:
            if one.strip():
                self._on_line(self, one)

    def _flush(self) -> None:
        try:
            while self._outbox:
                sent = self._socket.send(self._outbox)
                del self._outbox[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._outbox else 0)
        self._reactor.watch(self._socket, wanted, self._ready)
