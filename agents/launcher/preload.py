"""What fork parents import before they fork, and how they see that an import spoilt them for forking.

The runtime's own modules come in the order in which a starting node needs them. A learned list comes from replicas:
what their constructors imported from installed packages, in import order.
"""

from __future__ import annotations

import importlib
import logging

from serve_rt.agents.launcher.processes import open_devices, thread_count
from serve_rt.agents.launcher.records import ProcessKind

log = logging.getLogger(__name__)

_COMMON = (
    "msgspec",
    "uvloop",
    "grpc.aio",
    "serve_rt.pb.control_pb2",
    "serve_rt.wire.services",
    "serve_rt.credentials",
    "serve_rt.observe.log",
    "setproctitle",
)
_PROXY = (
    "httptools",
    "uvicorn",
    "uvicorn.lifespan.off",
    "uvicorn.protocols.http.httptools_impl",
    "serve_rt.proxy.main",
)
_CONTROLLER = ("serve_rt.controller.main",)
_REPLICA = (
    "cloudpickle",
    "starlette.requests",
    "starlette.responses",
    "serve_rt.replica.main",
    "serve_rt.api.deployment",
    "serve_rt.batching",
)

RUNTIME = _COMMON + _PROXY + _CONTROLLER + _REPLICA
NEEDED_BY = {
    ProcessKind.PROXY: len(_COMMON) + len(_PROXY),
    ProcessKind.CONTROLLER: len(_COMMON) + len(_PROXY) + len(_CONTROLLER),
    ProcessKind.REPLICA: len(RUNTIME),
}
"""How many of RUNTIME must be there before such a child is forked: what is missing it would import alone, each anew."""


def import_one(name: str) -> str:
    """Import a module; "" or why it could not be."""
    try:
        importlib.import_module(name)
    except (KeyboardInterrupt, SystemExit) as error:
        return f"its import raised {type(error).__name__}"
    except BaseException as error:  # somebody's module, run in our process: it may raise anything
        return f"{type(error).__name__}: {error}"
    return ""


def spoilt() -> str:
    """Why this process must not be forked from, or "". Looked at between imports."""
    import sys

    threads = thread_count()
    if threads > 1:
        return f"it left {threads - 1} thread{'s' if threads > 2 else ''} running"
    devices = open_devices()
    if devices:
        return f"it opened {devices[0]}"
    torch = sys.modules.get("torch")
    if torch is not None and getattr(torch, "cuda", None) is not None and torch.cuda.is_initialized():
        return "it initialised CUDA"
    return ""
