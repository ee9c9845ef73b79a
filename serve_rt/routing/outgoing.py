"""A request as a proxy or a handle gives it to a router."""

from __future__ import annotations

from dataclasses import dataclass

from serve_rt.model.routes import AppRoute
from serve_rt.pb import stream_pb2 as pb
from serve_rt.transport.parts import http_of_open


@dataclass(slots=True)
class Outgoing:
    http: pb.HttpHead | None
    """One of `http`, `call` and `encoded`."""
    call: pb.MethodCall | None
    body: bytes
    """What of the body is there already; it is kept until the answer begins, for a retry."""
    end: bool
    """Nothing follows `body`."""
    request_id: str
    deadline: float | None = None
    """On this process's monotonic clock."""
    queue_timeout_s: float = 60.0
    retry_safe: bool = False
    """The work may run twice: what may have started can be sent to another replica once."""
    app: str = ""
    route: str = ""
    multiplexed_model_id: str = ""
    session_id: str = ""
    encoded: bytes = b""
    """In place of `http`: the Open message as `opened` would make it, laid out by the proxy."""
    began_s: float = 0.0
    """When its client asked, for one whose deadline follows the application's `request_timeout_s` while it waits."""
    own_timeouts_s: tuple[float | None, ...] = ()
    """The other timeouts of such a one: the nearest of all holds."""
    pinned: bool = False
    """Belongs to one replica: when that is gone it fails, and goes to no other."""

    def retime(self, old: AppRoute, new: AppRoute) -> None:
        """The application's timeouts have changed. What was not the application's word stays."""
        if self.call is None and self.queue_timeout_s == old.queue_timeout_s:
            self.queue_timeout_s = new.queue_timeout_s
        elif self.call is not None and self.queue_timeout_s == old.call_queue_timeout_s:
            self.queue_timeout_s = new.call_queue_timeout_s
        if self.began_s:
            timeouts_s = [one for one in (*self.own_timeouts_s, new.request_timeout_s) if one is not None]
            self.deadline = self.began_s + min(timeouts_s) if timeouts_s else None

    def opened(self) -> bytes:
        """The Open message, encoded, but for its id, its body and the time left: it is the same in each attempt."""
        if self.encoded:
            return self.encoded
        message = pb.Open(
            request_id=self.request_id,
            app=self.app,
            route=self.route,
            multiplexed_model_id=self.multiplexed_model_id,
            session_id=self.session_id,
            call=self.call,
        )
        if self.http is None:
            return message.SerializeToString()
        return message.SerializeToString() + http_of_open(self.http.SerializeToString())
