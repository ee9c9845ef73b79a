"""`serve.run` and what goes with it: start, delete, shutdown, status, handles by name.

    app = Model.bind()
    handle = serve.run(app)

Walk: session (find or start a cluster) → build (spec and blobs) → client (send) → waiting (until it runs and answers).
"""

from __future__ import annotations

import asyncio
import logging
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from serve_rt.api import session as sessions
from serve_rt.api.build import AppOptions, build
from serve_rt.api.deployment import Application
from serve_rt.api.own_cluster import open_to_others
from serve_rt.api.replica_context import find_replica_context, is_being_made
from serve_rt.api.session import Session
from serve_rt.api.targets import RunTarget, check_apart, check_target, is_forced_local, prefix_of
from serve_rt.api.waiting import reachable, until_deleted, until_routed, until_running
from serve_rt.config.accepted import ControllerOptions, TracingConfig
from serve_rt.config.options import (
    AppLimits,
    AutoscalingPolicy,
    HTTPOptions,
    LoggingConfig,
    ProxyLocation,
    checked,
    gRPCOptions,
    nearest,
)
from serve_rt.errors import ConfigError, NoClusterError, ServeException
from serve_rt.handle import DeploymentHandle
from serve_rt.handle.lookup import exists, ingress_of
from serve_rt.model.status import ServeStatus

log = logging.getLogger(__name__)
T = TypeVar("T")
_NODES_OWN = ("root_path", "request_timeout_s", "keep_alive_timeout_s", "limits")
"""Of the http_options: what becomes a flag of the agent besides where it listens."""
_START = (
    "proxy_location", "http_options", "grpc_options", "logging_config", "tracing_config", "controller_options",
)  # fmt: skip
_logging: LoggingConfig | None = None
"""What serve.start was told; for applications run afterwards that say nothing themselves."""
_http: HTTPOptions | None = None
"""What serve.start was told; the request timeout holds for applications run afterwards."""


def start(
    proxy_location: str | ProxyLocation | None = None,
    http_options: HTTPOptions | Mapping[str, Any] | None = None,
    grpc_options: gRPCOptions | Mapping[str, Any] | None = None,
    logging_config: LoggingConfig | Mapping[str, Any] | None = None,
    tracing_config: Any = None,
    controller_options: Any = None,
    **kwargs: Any,
) -> None:
    """Start a cluster that belongs to this process, or join the one that runs.

    *Errors*: ValueError for bad options. On a running cluster options that differ are a warning.
    """
    for name in kwargs:
        if name in ("http_host", "http_port", "http_middlewares"):
            raise ValueError(f"{name} is deprecated, please use serve.start(http_options={{...}}) instead.")
        if name not in ("detached", "dedicated_cpu"):
            raise TypeError(f"serve.start() got an unexpected keyword argument {name!r}. {nearest(name, _START)}")
    global _logging
    logs = None if logging_config is None else checked(LoggingConfig, logging_config, "logging_config")
    if tracing_config is not None and checked(TracingConfig, tracing_config, "tracing_config").enabled:
        raise ConfigError("tracing_config with enabled=True is not supported: set OpenTelemetry up in the constructor.")
    if controller_options is not None:
        checked(ControllerOptions, controller_options, "controller_options")
    if grpc_options is not None and checked(gRPCOptions, grpc_options, "grpc_options").grpc_servicer_functions:
        raise ValueError("grpc_options.grpc_servicer_functions is not supported: there is no gRPC ingress yet.")
    detached = bool(kwargs.get("detached"))
    http = checked(HTTPOptions, http_options, "http_options") if http_options is not None else HTTPOptions()
    _logging = logs
    session = _start(http, _location(proxy_location) or http.proxy_location())
    if detached and session.own is not None:
        log.warning(
            "detached=True has no effect, the cluster ends with this program; `serve-agent` starts one that stays"
        )


def _location(given: str | ProxyLocation | None) -> ProxyLocation | None:
    """*Errors*: ValueError naming the known ones."""
    if given is None or given in list(ProxyLocation):
        return None if given is None else ProxyLocation(given)
    raise ValueError(f"proxy_location must be one of {', '.join(ProxyLocation)}, got {given!r}.")


def _start(http: HTTPOptions, location: ProxyLocation | None, flags: Sequence[str] = ()) -> Session:
    global _http
    sessions.show_logs()
    _http = http
    session, started = sessions.current_or_new(flags=[*_flags(http, location), *flags])
    if not started:
        _warn_of_difference(session, http, location)
    return session


def _flags(http: HTTPOptions, location: ProxyLocation | None) -> list[str]:
    flags = ["--port", "0", "--proxy-location", location or ProxyLocation.EveryNode]
    if http.host is None:
        return [*flags, "--no-proxy"]
    flags += ["--http-host", http.host, "--http-port", str(http.port)]
    flags += open_to_others(http.host, https=bool(http.ssl_certfile))
    flags += ["--http-keep-alive-timeout-s", str(http.keep_alive_timeout_s)]
    if http.ssl_certfile:
        flags += ["--http-ssl-certfile", http.ssl_certfile, "--http-ssl-keyfile", str(http.ssl_keyfile)]
    for name, value in http.limits.items():
        flags += ["--http-limit", f"{name}={value}"]
    if http.root_path:
        flags += ["--http-root-path", http.root_path]
    if http.request_timeout_s is not None:
        flags += ["--http-request-timeout-s", str(http.request_timeout_s)]
    return flags


def _warn_of_difference(session: Session, http: HTTPOptions, location: ProxyLocation | None) -> None:
    if location is not None and session.identity.proxy_location not in ("", location):
        running = session.identity.proxy_location
        log.warning("the running cluster has proxy_location %s; %s is ignored", running, location)
    asked = f"{'https://' if http.ssl_certfile else ''}{http.host}:{http.port}"
    has = session.identity.http_address
    if http != HTTPOptions() and asked != has:
        log.warning("the running cluster serves HTTP at %s; http_options with %s are ignored", has, asked)
    ignored = [name for name in _NODES_OWN if getattr(http, name) != getattr(HTTPOptions(), name)]
    if ignored:
        log.warning("http_options %s are ignored: the running cluster keeps its own", ", ".join(ignored))


def run(
    target: Application,
    blocking: bool = False,
    name: str = "default",
    route_prefix: str | None = "/",
    logging_config: LoggingConfig | dict[str, Any] | None = None,
    _local_testing_mode: bool = False,
    external_scaler_enabled: bool = False,
    controller_options: Any = None,
    request_timeout_s: float | None = None,
    queue_timeout_s: float | None = None,
    max_body_bytes: int | None = None,
) -> DeploymentHandle[Any]:
    """Deploy an application, wait until it runs, and return a handle of its ingress.

    With `blocking` it returns never: Ctrl-C is logged and raised again. The last three are ours, not Ray's:
    `request_timeout_s` ends an HTTP request that takes longer with 408 (None: as `http_options` say);
    `queue_timeout_s` is how long a request waits for a free slot of a replica: over HTTP it is then refused with 503
    (None: after 60 s), a handle's call fails with QueueTimeoutError (None: after an hour); bodies over `max_body_bytes`
    are answered with 413 (None: 1 GiB). Deployed again with other values they hold at once, for those who wait too.

    *Errors*: TypeError, ValueError and ServeException as Ray's for bad arguments; RuntimeError with the user's
    traceback when the deploy failed.
    """
    handle = _run(
        target,
        name=name,
        route_prefix=route_prefix,
        logging_config=logging_config,
        _local_testing_mode=_local_testing_mode,
        external_scaler_enabled=external_scaler_enabled,
        controller_options=controller_options,
        limits=(request_timeout_s, queue_timeout_s, max_body_bytes),
    )
    if blocking:
        wait_for_ever()
    return handle


def run_many(
    targets: Sequence[RunTarget],
    blocking: bool = False,
    wait_for_ingress_deployment_creation: bool = True,
    wait_for_applications_running: bool = True,
    _local_testing_mode: bool = False,
    controller_options: Any = None,
) -> list[DeploymentHandle[Any]]:
    """As `run` for several applications."""
    handles = _run_many(
        targets,
        wait_for_applications_running=wait_for_applications_running,
        _local_testing_mode=_local_testing_mode,
    )
    if blocking:
        wait_for_ever()
    return handles


def _run(
    target: Application,
    *,
    _blocking: bool = True,
    name: str = "default",
    route_prefix: str | None = "/",
    logging_config: LoggingConfig | dict[str, Any] | None = None,
    _local_testing_mode: bool = False,
    external_scaler_enabled: bool = False,
    controller_options: Any = None,
    limits: tuple[float | None, float | None, int | None] = (None, None, None),
) -> DeploymentHandle[Any]:
    one = RunTarget(target, name, route_prefix, logging_config, external_scaler_enabled, None, *limits)
    return _run_many([one], wait_for_applications_running=_blocking, _local_testing_mode=_local_testing_mode)[0]


def _run_many(
    targets: Sequence[RunTarget],
    *,
    wait_for_applications_running: bool = True,
    _local_testing_mode: bool = False,
    import_path: str = "",
    code_root: Path | None = None,
    session: Session | None = None,
    force: bool = False,
) -> list[DeploymentHandle[Any]]:
    if not targets:
        raise ValueError("No applications provided.")
    for one in targets:
        check_target(one)
        _logging_for(one)
    targets = [replace(one, route_prefix=prefix_of(one.target, one.route_prefix)) for one in targets]
    check_apart(targets)
    if _local_testing_mode or is_forced_local():
        from serve_rt.api.local_mode import run_local

        return run_local(list(targets))
    if is_being_made(one.name for one in targets):
        log.warning("serve.run is not repeated in the replicas of its own application: `if __name__ == '__main__':`")
        return [DeploymentHandle(one.target.deployment.name, one.name) for one in targets]
    session = session or _start_if_needed()
    sessions.point_handles(session)
    deployed = []
    for one in targets:
        options = AppOptions(
            one.name,
            one.route_prefix,
            deploy_id=uuid.uuid4().hex,
            limits=_limits(one),
            import_path=import_path,
            logging_config=_logging_for(one),
            code_root=code_root,
            autoscaling_policy=_policy(one),
        )
        built = build(one.target, options)
        session.run(session.client.put_blobs(built.blobs))
        session.run(session.client.deploy(built.spec, force=force))
        deployed.append(built.spec)
    for spec in deployed if wait_for_applications_running else ():
        until_running(session, spec)
        if spec.route_prefix is not None and session.identity.http_address:
            until_routed(session.identity.http_address, spec)
            log.info("Application '%s' is ready at %s.", spec.name, url_of(session, spec.route_prefix))
        else:
            log.info("Application '%s' is ready.", spec.name)
    return [DeploymentHandle(spec.ingress, spec.name) for spec in deployed]


def _limits(one: RunTarget) -> AppLimits:
    limits = one.limits()
    if limits.request_timeout_s is None and _http is not None:
        limits = replace(limits, request_timeout_s=_http.request_timeout_s or None)
    return limits


def _policy(one: RunTarget) -> AutoscalingPolicy | None:
    given = one.autoscaling_policy
    return checked(AutoscalingPolicy, given, "autoscaling_policy") if given is not None else None


def _logging_for(one: RunTarget) -> LoggingConfig | None:
    """The application's, else what serve.start was told."""
    return _logging if one.logging_config is None else checked(LoggingConfig, one.logging_config, "logging_config")


def _start_if_needed() -> Session:
    sessions.show_logs()
    return sessions.find() or _start(_http or HTTPOptions(), None)


def url_of(session: Session, route_prefix: str) -> str:
    prefix = "" if route_prefix == "/" else route_prefix
    return f"{reachable(session.identity.http_address)}{prefix}/"


def wait_for_ever() -> None:
    """Until Ctrl-C, or until the cluster that is ours has ended."""
    session = sessions.current()
    waiting = threading.Event()
    try:
        while session.may_live:
            waiting.wait(0.5)
    except KeyboardInterrupt:
        log.warning("Got KeyboardInterrupt, exiting...")
        raise
    raise RuntimeError("the agent of this cluster has ended; see agent.log in the state dir's logs folder")


# --- the rest of the life of applications -------------------------------------------------------------------------


def delete(name: str, _blocking: bool = True) -> None:
    """Delete an application; an unknown name is no error.

    *Errors*: ServeException without a cluster; TimeoutError when it is not gone in 60 s.
    """
    session = _need_session()
    if name not in session.run(session.client.status()).applications:
        return
    session.run(session.client.delete(name, uuid.uuid4().hex))
    if _blocking:
        until_deleted(session, [name])


def rollback(name: str, to_version: int | None = None, _blocking: bool = True) -> int:
    """Deploy a former version of an application again, by default the last good one before the present one; its
    number. `serve.status().applications[name].versions` and `serve history` list them.

    *Errors*: NotFoundError naming the versions there are; RuntimeError when that version fails now.
    """
    if to_version is not None and to_version < 1:
        raise ValueError(f"to_version={to_version} must be the number of a version, 1 or more.")
    session = _need_session()
    number, spec = session.run(session.client.rollback(name, to_version or 0, uuid.uuid4().hex))
    if _blocking:
        until_running(session, spec)
    return number


def shutdown() -> None:
    """Delete all applications, and stop the cluster if this process started it."""
    session = sessions.find()
    if session is None:
        log.info("Nothing to shut down. There's no Serve application running.")
        sessions.close()
        return
    try:
        if session.run(session.client.status()).applications:
            session.run(session.client.delete("", uuid.uuid4().hex))
            if session.own is None:  # our own agent's leaving drains and waits by itself
                until_deleted(session, None)
    finally:
        sessions.close()


async def shutdown_async() -> None:
    await asyncio.to_thread(shutdown)


def status() -> ServeStatus:
    """The whole cluster's; empty when none runs."""
    session = sessions.find()
    return session.run(session.client.status()) if session is not None else ServeStatus()


def get_app_handle(name: str) -> DeploymentHandle[Any]:
    """*Errors*: ServeException when there is no such application."""
    ingress = _in_cluster(lambda: ingress_of(name))
    if ingress is None:
        raise ServeException(f"Application '{name}' does not exist.")
    return DeploymentHandle(ingress, name)


def get_deployment_handle(
    deployment_name: str,
    app_name: str | None = None,
    _check_exists: bool = True,
    _record_telemetry: bool = True,
) -> DeploymentHandle[Any]:
    """*Errors*: ServeException without an application name outside of replicas; KeyError for an unknown deployment."""
    if app_name is None:
        context = find_replica_context()
        if context is None:
            raise ServeException("Please specify an application name when getting a deployment handle.")
        app_name = context.app_name
    handle: DeploymentHandle[Any] = DeploymentHandle(deployment_name, app_name)
    if _check_exists and not _in_cluster(lambda: exists(handle.deployment_id)):
        raise KeyError(f"{handle.deployment_id} does not exist.")
    return handle


def _need_session() -> Session:
    return _in_cluster(sessions.current)


def _in_cluster(step: Callable[[], T]) -> T:
    try:
        return step()
    except NoClusterError as error:
        raise NoClusterError(f"There is no Serve instance running on this cluster. {error}") from error
