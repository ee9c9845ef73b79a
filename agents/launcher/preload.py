"""What the launcher imports before it forks, so that no child has to.

Done in small steps between requests: the first command (usually "start etcd") must not wait for all of it.
"""

from __future__ import annotations

import importlib
import logging

log = logging.getLogger(__name__)

MODULES = (
    "asyncio",
    "uvloop",
    "google.protobuf.message_factory",
    "grpc",
    "grpc.aio",
    "setproctitle",
    "serve_rt.controller.main",
    "httptools",
    "uvicorn",
    "uvicorn.lifespan.off",
    "uvicorn.protocols.http.httptools_impl",
    "serve_rt.proxy.main",
    "cloudpickle",
    "starlette.requests",
    "starlette.responses",
    "serve_rt.replica.main",
)


class Preloader:
    """*Errors*: none; a module that does not import is logged, its user will meet the same error with its own log."""

    def __init__(self, modules: tuple[str, ...] = MODULES) -> None:
        self._left = list(modules)

    @property
    def done(self) -> bool:
        return not self._left

    def step(self) -> None:
        name = self._left.pop(0)
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever a module's top level does must not end the node's parent process
            log.warning("cannot preload %s: %s", name, error, extra={"action": "preload_failed"})

    def finish(self) -> None:
        while self._left:
            self.step()
