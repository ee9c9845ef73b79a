"""From a payload on disk to user code that is ready: unpickle, construct, configure, check once.

Called by `serve_rt.replica.lifecycle` once the process listens. It also notes what the constructor imported from
installed packages: the node's launcher preloads that, so that the next replica pays for it no more ("learned preload").
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import sys
import sysconfig
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from serve_rt.api.ingress import ASGI_APP
from serve_rt.api.payload import Payload, unpack
from serve_rt.api.replica_context import ReplicaContext, ReplicaRank
from serve_rt.errors import ConfigError, ServeException
from serve_rt.model.spec import DeploymentSpec
from serve_rt.model.starts import ReplicaStart
from serve_rt.replica.asgi import Lifespan
from serve_rt.replica.code_beside import link_beside
from serve_rt.replica.hooks import run_hook
from serve_rt.replica.recording import replica_metadata
from serve_rt.replica.user_code import UserCode
from serve_rt.replica.user_loop import UserLoop


@dataclass(frozen=True, slots=True)
class Constructed:
    code: UserCode
    lifespan: Lifespan | None
    imports: tuple[str, ...]
    """Modules of installed packages that were imported on the way, in import order."""
    took_s: float


async def construct(start: ReplicaStart, context: ReplicaContext, user_loop: UserLoop) -> Constructed:
    """*Errors*: what user code raised, as it is; ConfigError when the payload cannot be opened here."""
    spec = start.assignment.spec
    check_versions(spec)
    known, began_s = frozenset(sys.modules), time.monotonic()
    _put_code_first(start.code_dir, spec.code_root)
    data = _read_payload(start.payload_path)
    servable = await user_loop.run(lambda: _build(data), name="constructor")
    context.servable_object = servable
    code = UserCode(servable)
    lifespan = await _start_lifespan(code, user_loop)
    await _first_reconfigure(code, spec, user_loop, context.rank)
    context.replica_metadata = await replica_metadata(code, user_loop)
    await _first_check_health(code, spec, user_loop)
    return Constructed(code, lifespan, imported_since(known, start.code_dir), time.monotonic() - began_s)


def check_versions(spec: DeploymentSpec) -> None:
    """*Errors*: ConfigError: pickled code does not travel between minor versions of Python."""
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if spec.python_version and spec.python_version != here:
        raise ConfigError(
            f"{spec.name} was deployed from Python {spec.python_version}, this node runs replicas with Python {here}: "
            "pickled code does not travel between them. Deploy from the same minor version, or run the agent with it"
        )
    if not spec.cloudpickle_version:
        return
    import cloudpickle

    if spec.cloudpickle_version.split(".")[0] != cloudpickle.__version__.split(".")[0]:
        raise ConfigError(
            f"{spec.name} was packed with cloudpickle {spec.cloudpickle_version}, this node has "
            f"{cloudpickle.__version__}: install the same major version on both sides"
        )


def _put_code_first(code_dir: str | None, code_root: str) -> None:
    if code_dir is not None:
        link_beside(code_dir, code_root)
    if code_dir is not None and (not sys.path or sys.path[0] != code_dir):
        sys.path.insert(0, code_dir)


def _read_payload(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the deployment's payload {path}: {error.strerror}") from error


async def _build(data: bytes) -> Any:  # Any: the user's instance or function
    """On the user loop, so that a constructor may start tasks there."""
    payload = unpack(data)
    if not inspect.isclass(payload.target):
        return payload.target
    if asyncio.iscoroutinefunction(payload.target.__init__):
        instance = await _build_async(payload)
    else:
        instance = payload.target(*payload.args, **payload.kwargs)
    getattr(instance, ASGI_APP, None)  # made here, where the program's builder function may use the loop
    return instance


async def _build_async(payload: Payload) -> Any:
    kind: Any = payload.target
    instance = kind.__new__(kind)
    await instance.__init__(*payload.args, **payload.kwargs)
    return instance


async def _start_lifespan(code: UserCode, user_loop: UserLoop) -> Lifespan | None:
    app = code.asgi_app
    if app is None:
        return None

    async def start() -> Lifespan:
        lifespan = Lifespan(app)
        await lifespan.startup()
        return lifespan

    return await user_loop.run(start, name="ASGI start-up")


async def _first_reconfigure(code: UserCode, spec: DeploymentSpec, user_loop: UserLoop, rank: ReplicaRank) -> None:
    """A program that takes the rank is told it even without a user_config."""
    text = spec.options.user_config_json
    if text is not None or wants_rank(code):
        await reconfigure(code, text or "null", user_loop, rank)


async def reconfigure(code: UserCode, user_config_json: str, user_loop: UserLoop, rank: ReplicaRank) -> None:
    """*Errors*: ServeException when the deployment has no `reconfigure`; what it raised."""
    hook = reconfigure_hook(code)
    given = partial(hook, rank=rank) if _takes_rank(hook) else hook
    await run_hook(user_loop, given, json.loads(user_config_json), timeout_s=None)


def wants_rank(code: UserCode) -> bool:
    hook = code.hook("reconfigure")
    return hook is not None and _takes_rank(hook)


def _takes_rank(hook: Callable[..., Any]) -> bool:
    try:
        return "rank" in inspect.signature(hook).parameters
    except (TypeError, ValueError):  # a C function without a signature
        return False


def docs_path(code: UserCode) -> str:
    """Where the application of a FastAPI ingress shows its OpenAPI docs; "" when it does not."""
    path = getattr(getattr(code.asgi_app, "app", None), "docs_url", None)
    return path if isinstance(path, str) else ""


def reconfigure_hook(code: UserCode) -> Callable[..., Any]:
    hook = code.hook("reconfigure")
    if hook is None:
        name = getattr(code.servable, "__name__", type(code.servable).__name__)
        raise ServeException(f"user_config is set for {name}, but it has no method 'reconfigure(self, user_config)'.")
    return hook


async def _first_check_health(code: UserCode, spec: DeploymentSpec, user_loop: UserLoop) -> None:
    hook = code.hook("check_health")
    if hook is not None:
        await run_hook(user_loop, hook, timeout_s=spec.options.health_check_timeout_s)


# --- learned preload ----------------------------------------------------------------------------------------------


def _installed_roots() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    named = {paths[kind] for kind in ("stdlib", "platstdlib", "purelib", "platlib")}
    return tuple(os.path.realpath(path) + os.sep for path in named)


_ROOTS = _installed_roots()
"""Looked up when this module is imported, in the launcher: sysconfig imports modules of its own."""


def imported_since(known: frozenset[str], code_dir: str | None) -> tuple[str, ...]:
    """Modules of installed packages and the standard library that are in sys.modules and not in `known`."""
    new = [(name, module) for name, module in tuple(sys.modules.items()) if name not in known]
    return tuple(name for name, module in new if _is_installed(getattr(module, "__file__", None), code_dir))


def _is_installed(file: object, code_dir: str | None) -> bool:
    if not isinstance(file, str):
        return False
    path = os.path.realpath(file)
    if code_dir is not None and path.startswith(os.path.realpath(code_dir) + os.sep):
        return False
    return path.startswith(_ROOTS) or "/site-packages/" in path or "/dist-packages/" in path
