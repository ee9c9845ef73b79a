"""From a process's needs to a hidden application that has them: what pools of task workers and actors share.

An application of one deployment, without a route. It is made by the same calls as any other: blobs, then the record;
the control plane does not know it from others but by its name. Blocking; called in threads of their own.
"""

from __future__ import annotations

import logging
import sys
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import cloudpickle

from serve_rt.api import session as sessions
from serve_rt.api.build import version_of
from serve_rt.api.deployment import deployment
from serve_rt.api.local_mode import drop_local, is_local, run_local
from serve_rt.api.payload import Payload, pack, payload_digest
from serve_rt.api.replica_context import find_replica_context
from serve_rt.api.session import Session
from serve_rt.api.snapshot import import_root, snapshot, uses_code_of
from serve_rt.api.targets import RunTarget, is_forced_local
from serve_rt.errors import ServeException
from serve_rt.handle.runtime import HandleRuntime, current_runtime, find_runtime
from serve_rt.model.ids import AppName, BlobDigest, DeploymentName, VersionId
from serve_rt.model.spec import ApplicationSpec, DeploymentOptions, DeploymentSpec, LoggingOptions
from serve_rt.model.status import ApplicationStatusOverview, DeploymentStatus
from serve_rt.work.options import Needs

log = logging.getLogger(__name__)

PATIENCE_S = 7 * 86400.0
"""How long a call waits for a place: a task that is asked for is done, however long the queue."""
LONGEST_S = 86400.0
"""A worker that is to go has so long to finish its task."""
CHECK_S = 60.0
TELL_S = 10.0
"""Who has no process by then hears why."""
_QUIET = LoggingOptions(access_log=False)


@dataclass(frozen=True)
class Code:
    """The program's own modules."""

    digest: BlobDigest | None
    root: str
    blobs: Mapping[BlobDigest, bytes]
    """To be sent; none where the cluster has them."""


@dataclass(frozen=True)
class Prepared:
    target: Callable[..., Any]
    args: tuple[Any, ...]
    spec: DeploymentSpec
    blobs: Mapping[BlobDigest, bytes]

    def application(self, app: str) -> ApplicationSpec:
        return ApplicationSpec(
            name=AppName(app),
            deploy_id=uuid.uuid4().hex,
            ingress=self.spec.name,
            deployments=(self.spec,),
            route_prefix=None,
            handle_queue_timeout_s=PATIENCE_S,
        )


_lock = threading.Lock()
_snapshots: dict[Path, bytes] = {}
"""Of this process's code, as it was when it was first needed: what runs here was imported then."""


def code_here() -> Code:
    """This program's code: inside a replica it is the replica's own, which the cluster has."""
    context = find_replica_context()
    if context is not None:
        return Code(BlobDigest(context.code) if context.code is not None else None, context.code_root, {})
    root = import_root()
    if not uses_code_of(root):
        return Code(None, "", {})
    with _lock:
        if root not in _snapshots:
            _snapshots[root] = snapshot(root)
        data = _snapshots[root]
    digest = BlobDigest(sha256(data).hexdigest())
    return Code(digest, str(root.resolve()), {digest: data})


def prepare(
    name: str, target: Callable[..., Any], args: tuple[Any, ...], needs: Needs, options: DeploymentOptions
) -> Prepared:
    """*Errors*: TypeError for what cannot be pickled; ConfigError when the code is too large."""
    code = code_here()
    packed = pack(Payload(target, args))
    payload = BlobDigest(sha256(packed).hexdigest())
    spec = DeploymentSpec(
        name=DeploymentName(name),
        version=VersionId(""),
        payload=payload,
        code=code.digest,
        code_root=code.root,
        options=replace(
            options,
            resources=needs.resources,
            labels=needs.labels,
            env_vars=needs.env_vars,
            logging=_QUIET,
            # A function that holds the GIL for minutes is at work, not stuck: nobody but its caller can tell.
            stuck_timeout_s=LONGEST_S,
            health_check_period_s=CHECK_S,
        ),
        is_ingress=True,
        python_version=f"{sys.version_info.major}.{sys.version_info.minor}",
        cloudpickle_version=str(cloudpickle.__version__),
    )
    version = version_of(spec, payload_digest(packed))
    return Prepared(target, args, replace(spec, version=version), {payload: packed, **code.blobs})


def runtime_here() -> HandleRuntime:
    """What calls of this process go through; a driver without a cluster starts one, as `serve.run` does.

    *Errors*: NoClusterError when none can be started.
    """
    runtime = find_runtime()
    if runtime is not None:
        return runtime
    if is_forced_local():
        run_local([])
    elif sessions.find() is None:
        from serve_rt.api.run import start

        start()
    return current_runtime()


def deploy(runtime: HandleRuntime, prepared: Prepared, app: str, *, if_absent: bool = False) -> None:
    """*Errors*: those of a deploy; ConflictError when `if_absent` and it is there."""
    if is_local(runtime):
        one = deployment(name=prepared.spec.name)(prepared.target).bind(*prepared.args)
        run_local([RunTarget(one, app, None)], if_absent=if_absent)
        return
    session = sessions.current()
    session.run(session.client.put_blobs(prepared.blobs))
    session.run(session.client.deploy(prepared.application(app), if_absent=if_absent))
    timer = threading.Timer(TELL_S, _tell, (session, app))
    timer.name, timer.daemon = f"is {app} there", True
    timer.start()


def _tell(session: Session, app: str) -> None:
    """Whoever asks for what no node has would wait without a word."""
    if sessions.find() is not session:
        return
    try:
        overview = session.run(session.client.status(), TELL_S).applications.get(app)
    except (ServeException, TimeoutError, RuntimeError):  # the cluster is gone, or going
        return
    why = why_stuck(overview) if overview is not None else ""
    if why:
        log.warning("%s has no process after %g s: %s", app, TELL_S, why, extra={"action": "work_waits"})


def why_stuck(overview: ApplicationStatusOverview) -> str:
    """Why there is no process that should be there; "" when all is well."""
    states = [one for one in overview.deployments.values() if one.status is not DeploymentStatus.HEALTHY]
    missing = [one for one in states if not one.replica_states.get("RUNNING")]
    return "; ".join(one.message or "it is still starting" for one in missing)


def delete(app: str, runtime: HandleRuntime | None = None) -> None:
    """One that is not there is no error."""
    if runtime is not None and is_local(runtime):
        drop_local(app)
        return
    session = sessions.current()
    session.run(session.client.delete(app, uuid.uuid4().hex))
