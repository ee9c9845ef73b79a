"""What user code can ask about the request it runs for."""

from __future__ import annotations

from typing import Any

from serve_rt.batching.queue import batch_requests
from serve_rt.context import current_request


def get_multiplexed_model_id() -> str:
    """The model id that the request named, "" for none; inside a batch the id that all its items share."""
    request = current_request.get()
    return request.multiplexed_model_id if request is not None else ""


def cancelled() -> bool:
    """Whether nobody waits for this request any more: its caller left or cancelled it, or its deadline passed.

    For work that no CancelledError can reach: a sync handler runs on in its thread and keeps its slot until it ends, so
    a long one looks here now and then and returns early. Inside a batch it is true once every caller has gone; outside
    of a request it is false.
    """
    requests = batch_requests.get() or (current_request.get(),)
    return all(request is not None and request.cancelled.is_set() for request in requests)


def get_trace_context() -> Any:
    """The OpenTelemetry context of the request; None when tracing is not set up. Any: a type of an optional part."""
    return None
