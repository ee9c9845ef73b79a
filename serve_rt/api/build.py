"""From an Application to what is sent: an ApplicationSpec and the blobs it names.

The version of a deployment is the digest of all that makes another process: code, arguments, environment, resources,
interpreter. The same program deployed again has the same versions and restarts nothing. Next stop: serve_rt.api.client.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from serve_rt.api.deployment import Application, Deployment
from serve_rt.api.graph import BoundDeployment, flatten
from serve_rt.api.ingress import is_ingress
from serve_rt.api.options import resolve
from serve_rt.api.payload import Payload, pack, payload_digest
from serve_rt.api.snapshot import import_root, snapshot, uses_code_of
from serve_rt.batching.binding import BatchedMethod
from serve_rt.config.options import AppLimits, AutoscalingPolicy, LoggingConfig
from serve_rt.errors import ServeException
from serve_rt.model.capacity import at_capacity
from serve_rt.model.ids import AppName, BlobDigest, DeploymentName, VersionId
from serve_rt.model.spec import (
    MAX_BODY_BYTES,
    QUEUE_TIMEOUT_S,
    ApplicationSpec,
    DeploymentOptions,
    DeploymentSpec,
    PolicySpec,
)
from serve_rt.wire import records

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Built:
    spec: ApplicationSpec
    blobs: Mapping[BlobDigest, bytes]


@dataclass(frozen=True)
class AppOptions:
    name: str = "default"
    route_prefix: str | None = "/"
    deploy_id: str = ""
    limits: AppLimits = field(default_factory=AppLimits)
    import_path: str = ""
    logging_config: LoggingConfig | None = None
    autoscaling_policy: AutoscalingPolicy | None = None
    code_root: Path | None = None
    """None: found from the running program."""
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Deployment -> options that take the place of those in the code, from a configuration file."""
    target_capacity: float | None = None
    """In percent, from a configuration file."""
    config_json: str = ""
    """What the configuration file says of the application."""


@dataclass
class _Blobs:
    """Blobs by digest; a folder is zipped once, however many deployments use it."""

    data: dict[BlobDigest, bytes] = field(default_factory=dict)
    roots: dict[Path, BlobDigest | None] = field(default_factory=dict)

    def add(self, data: bytes) -> BlobDigest:
        digest = BlobDigest(sha256(data).hexdigest())
        self.data[digest] = data
        return digest

    def code(self, root: Path, *, always: bool) -> BlobDigest | None:
        if root not in self.roots:
            self.roots[root] = self.add(snapshot(root)) if always or uses_code_of(root) else None
        return self.roots[root]


def build(application: Application, options: AppOptions) -> Built:
    """*Errors*: TypeError for what cannot be pickled; ConfigError when the code is too large."""
    graph = flatten(application, options.name)
    _check_ingresses(graph.deployments, options.name)
    blobs = _Blobs()
    bound = tuple(_overridden(one, options) for one in graph.deployments)
    _check_names(graph.deployments, options)
    _import_policies(bound, options)
    deployments = tuple(_deployment(one, graph.ingress, options, blobs) for one in bound)
    limits = options.limits
    spec = ApplicationSpec(
        name=AppName(options.name),
        deploy_id=options.deploy_id,
        ingress=DeploymentName(graph.ingress),
        deployments=deployments,
        route_prefix=options.route_prefix,
        request_timeout_s=limits.request_timeout_s,
        queue_timeout_s=limits.queue_timeout_s or QUEUE_TIMEOUT_S,
        handle_queue_timeout_s=limits.queue_timeout_s,
        max_body_bytes=limits.max_body_bytes or MAX_BODY_BYTES,
        import_path=options.import_path,
        config_json=options.config_json,
        target_capacity=options.target_capacity,
        autoscaling_policy=_packed_policy(options.autoscaling_policy, blobs) if options.autoscaling_policy else None,
    )
    return Built(spec, blobs.data)


def _overridden(bound: BoundDeployment, app: AppOptions) -> BoundDeployment:
    options = app.overrides.get(bound.name)
    return replace(bound, deployment=bound.deployment.options(**options)) if options else bound


def _check_names(deployments: Sequence[BoundDeployment], app: AppOptions) -> None:
    """*Errors*: ValueError in Ray's words for options of a deployment that is not there."""
    there = [bound.name for bound in deployments]
    for name in app.overrides:
        if name not in there:
            raise ValueError(f"Deployment '{name}' does not exist. Available: {there}")


def _deployment(bound: BoundDeployment, ingress: str, app: AppOptions, blobs: _Blobs) -> DeploymentSpec:
    import cloudpickle

    deployment = bound.deployment
    given = deployment.given
    if app.logging_config is not None and given.get("logging_config") is None:
        given = {**given, "logging_config": app.logging_config}
    options = at_capacity(_with_policy(deployment, resolve(given), blobs), app.target_capacity)
    _check_hooks(deployment, options)
    packed = pack(Payload(deployment.func_or_class, bound.args, bound.kwargs))
    working_dir = _working_dir(deployment)
    root = working_dir or app.code_root or import_root()
    code = blobs.code(root, always=working_dir is not None)
    spec = DeploymentSpec(
        name=DeploymentName(bound.name),
        version=VersionId(""),
        payload=blobs.add(packed),
        code=code,
        code_root=str(root.resolve()) if code is not None else "",
        options=options,
        is_ingress=bound.name == ingress,
        python_version=f"{sys.version_info.major}.{sys.version_info.minor}",
        cloudpickle_version=str(cloudpickle.__version__),
    )
    return replace(spec, version=version_of(spec, payload_digest(packed)))


def _import_policies(bound: Sequence[BoundDeployment], app: AppOptions) -> None:
    """A policy that is only named is code of the program, too: taken where its module is in the program's folder.
    One that cannot be imported here is told of by the policy's own process."""
    configs = [one.deployment.given.get("autoscaling_config") for one in bound]
    policies = [app.autoscaling_policy, *(config.custom_policy() for config in configs if config is not None)]
    for policy in policies:
        if policy is not None and isinstance(policy.policy_function, str):
            name = policy.policy_function
            with contextlib.suppress(Exception):  # user code
                importlib.import_module(name.partition(":")[0] if ":" in name else name.rpartition(".")[0])


def _with_policy(deployment: Deployment, options: DeploymentOptions, blobs: _Blobs) -> DeploymentOptions:
    """An autoscaling policy that was given as an object travels in a blob of its own."""
    config, scaling = deployment.given.get("autoscaling_config"), options.autoscaling
    policy = config.custom_policy() if config is not None else None
    if policy is None or scaling is None:
        return options
    return replace(options, autoscaling=replace(scaling, policy=_packed_policy(policy, blobs)))


def _packed_policy(policy: AutoscalingPolicy, blobs: _Blobs) -> PolicySpec | None:
    spec = policy.spec()
    if spec is None or isinstance(policy.policy_function, str):
        return spec
    return replace(spec, payload=blobs.add(pack(Payload(policy.policy_function))))


def version_of(spec: DeploymentSpec, payload: str) -> VersionId:
    """Only what a running process cannot take on; the other options are light."""
    options = spec.options
    heavy: list[Any] = [
        payload,
        spec.code,
        sorted(options.env_vars.items()),
        options.resources.milli_cpu,
        options.resources.memory_bytes,
        options.resources.milli_gpu,
        options.resources.gpu_memory_bytes,
        sorted(options.resources.custom.items()),
        sorted(options.labels.items()),
        options.max_replicas_per_node,
        spec.python_version,
        spec.cloudpickle_version,
    ]
    return VersionId(sha256(records.encode(heavy)).hexdigest()[:16])


def _check_ingresses(deployments: Sequence[BoundDeployment], app: str) -> None:
    """*Errors*: RayServeException: one application of the outside world per application."""
    found = [bound.name for bound in deployments if is_ingress(bound.deployment.func_or_class)]
    if len(found) > 1:
        raise ServeException(
            f"Found multiple FastAPI deployments in application {app!r}: {', '.join(found)}. "
            "Use @serve.ingress for the one that answers HTTP, and handles for the others."
        )


def _working_dir(deployment: Deployment) -> Path | None:
    env = (deployment.given.get("ray_actor_options") or {}).get("runtime_env") or {}
    return Path(env["working_dir"]) if env.get("working_dir") else None


def _check_hooks(deployment: Deployment, options: DeploymentOptions) -> None:
    """*Errors*: ValueError for a user_config nobody will take."""
    if options.user_config_json is not None and not deployment.is_class:
        raise ValueError("user_config is not supported for function deployments: there is nothing to reconfigure.")
    if not deployment.is_class:
        return
    for name, member in inspect.getmembers_static(deployment.func_or_class):  # inherited ones too
        if isinstance(member, BatchedMethod):
            needed = member.settings.max_batch_size * member.settings.max_concurrent_batches
            if options.max_ongoing_requests < needed and member.settings.batch_size_fn is None:
                log.warning(
                    "%s: max_ongoing_requests=%d is less than max_batch_size * max_concurrent_batches = %d of %s: "
                    "a full batch can never form",
                    deployment.name,
                    options.max_ongoing_requests,
                    needed,
                    name,
                )
