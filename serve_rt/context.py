"""The request a piece of code runs for, carried in a context variable from hop to hop.

Set by the replica before user code; read by handles (deadline and request id are inherited by child calls), by log
formatting and by `serve.get_multiplexed_model_id`. A copy of the context goes with sync handlers into their threads.
"""

from __future__ import annotations

import threading
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class RequestContext:
    request_id: str = ""
    app: str = ""
    deployment: str = ""
    route: str = ""
    multiplexed_model_id: str = ""
    session_id: str = ""
    deadline: float | None = None
    """On this process's monotonic clock."""
    cancelled: threading.Event = field(default_factory=threading.Event)


current_request: ContextVar[RequestContext | None] = ContextVar("serve_request", default=None)


def __getattr__(name: str) -> Any:
    from serve_rt.ray_names import refuse_name

    refuse_name(__name__, name)
