"""What user code can ask about the request it runs for."""

from __future__ import annotations

from typing import Any

from serve_rt.context import current_request


def get_multiplexed_model_id() -> str:
    """The model id that the request named, "" for none; inside a batch the id that all its items share."""
    request = current_request.get()
    return request.multiplexed_model_id if request is not None else ""


def get_trace_context() -> Any:
    """The OpenTelemetry context of the request; None when tracing is not set up. Any: a type of an optional part."""
    return None
