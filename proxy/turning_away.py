"""Requests that find their deployment's queue full: one look at the headers, an answer made before, one write.

Under overload most requests end here, and what each costs is taken from those that are served: no exchange, no task, no
Open message, no log line above a rate, and the body is not waited for (measured: 26-31 µs of the proxy's CPU in place
of 96-123; two thirds of what is left are the kernel's). `forward.begin` asks before anything else; whoever is refused
later, after a body was read or because of a deadline, takes the long road to the same answer.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from serve_rt.errors import BackPressureError
from serve_rt.observe.line_budget import LineBudget
from serve_rt.observe.request_counts import RequestCounts
from serve_rt.proxy.answers import answer_for
from serve_rt.proxy.headers import request_id_of
from serve_rt.proxy.request_ids import RequestIds
from serve_rt.proxy.routes import Target

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    from serve_rt.proxy.http_protocol import ProxyHttpProtocol

log = logging.getLogger(__name__)

UNREAD_BODY_BYTES = 1 << 16
"""A refused request's body that is no longer than this is read and dropped, and the connection goes on; before a longer
one, one of unknown length, and one that waits for our `100 Continue`, it ends: reading costs more than connecting."""


class TurningAway:
    def __init__(self, ids: RequestIds, counts: RequestCounts) -> None:
        self._ids, self._counts = ids, counts
        self._refusal: BackPressureError | None = None
        self._head = self._body = b""
        self.lines = LineBudget(log, "requests found the queue full", "requests_refused")

    def __call__(self, target: Target, scope: dict[str, Any], refusal: BackPressureError) -> bool:
        """Answer it. False: nothing was done, its client does not read now. Any: ASGI."""
        connection: ProxyHttpProtocol = scope["serve_rt.connection"]
        cycle: RequestResponseCycle = scope["serve_rt.cycle"]
        method: str = scope["method"]
        if refusal is not self._refusal:
            self._make(refusal)
        request_id, body_bytes = self._look(scope)
        if cycle.more_body and (body_bytes > UNREAD_BODY_BYTES or cycle.waiting_for_100_continue):
            cycle.keep_alive = False
        head = b"%bx-request-id: %b\r\n" % (self._head, request_id.encode("latin-1", "replace"))
        if not connection.write_refusal(cycle, head, b"" if method == "HEAD" else self._body):
            return False
        self._counts.add((target.app.name, target.prefix, method, str(refusal.status_code)), 0.0)
        if self.lines.spend():
            fields = {"request_id": request_id, "method": method, "path": scope["path"], "app": target.app.name}
            log.info("%s", refusal, extra={**fields, "status": refusal.status_code, "action": "request_failed"})
        return True

    def _make(self, refusal: BackPressureError) -> None:
        answer = answer_for(refusal, "", None)
        self._refusal = refusal
        self._head = STATUS_LINE[answer.status] + b"".join([b"%b: %b\r\n" % pair for pair in answer.headers(b"")])
        self._body = answer.body.encode()

    def _look(self, scope: dict[str, Any]) -> tuple[str, int]:
        """Its id, and how much there is of its body, at least."""
        request_id, body_bytes = "", 0
        for name, value in scope["headers"]:
            if name == b"x-request-id":
                request_id = request_id_of(value)
            elif name == b"content-length":
                body_bytes = int(value)  # the parser has checked that it is a number
            elif name == b"transfer-encoding":
                body_bytes = UNREAD_BODY_BYTES + 1
        return request_id or self._ids.next(), body_bytes
