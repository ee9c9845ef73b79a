"""How the node's own processes are started: controller candidate, proxy workers, embedded etcd."""

from __future__ import annotations

import os
from collections.abc import Iterable

import msgspec

from serve_rt.agents.launcher.records import Handle, ProcessKind, SpawnSpec
from serve_rt.agents.node import ThisNode
from serve_rt.agents.settings import Settings
from serve_rt.agents.version import software
from serve_rt.etcd.embedded import EmbeddedEtcd, embedded_environment
from serve_rt.model.starts import ControllerStart, ProxyStart

ETCD_NAME = "etcd"
CONTROLLER_NAME = "controller"


def proxy_name(worker: int) -> str:
    return f"proxy-{worker}"


def etcd_spec(settings: Settings, start: EmbeddedEtcd) -> SpawnSpec:
    kept = embedded_environment(os.environ)
    return SpawnSpec(
        kind=ProcessKind.ETCD,
        name=ETCD_NAME,
        incarnation=0,
        argv=start.argv,
        unset_env=tuple(name for name in os.environ if name not in kept),
        cwd=str(start.cwd),
        log_path=str(settings.state.logs / "etcd.log"),
        title="",
    )


def controller_spec(node: ThisNode) -> SpawnSpec:
    start = ControllerStart(
        cluster=node.cluster,
        node_id=node.node_id,
        host=node.settings.host,
        token_path=str(node.state.token),
        etcd=node.etcd,
        state_dir=str(node.state.path),
        advertise_host=node.settings.advertised,
        software=software(),
    )
    return SpawnSpec(
        kind=ProcessKind.CONTROLLER,
        name=CONTROLLER_NAME,
        incarnation=0,
        entry="serve_rt.controller.main:run",
        start=msgspec.to_builtins(start),
        cwd=str(node.state.path),
        threads=1,
        log_path=str(node.state.logs / "controller.log"),
        title=f"serve-rt controller {node.node_id}",
    )


def proxy_spec(node: ThisNode, worker: int, port: int) -> SpawnSpec:
    start = ProxyStart(
        cluster=node.cluster,
        node_id=node.node_id,
        worker=worker,
        socket_fd=-1,  # the launcher fills in the descriptor of the slot's socket
        token_path=str(node.state.token),
        agent_address=node.address,
        routes_path=str(node.state.routes),
        state_dir=str(node.state.path),
        host=node.settings.http_host,
        port=port,
        root_path=node.settings.http_root_path,
        request_timeout_s=node.settings.http_request_timeout_s,
        keep_alive_timeout_s=node.settings.http_keep_alive_timeout_s,
        limits=dict(node.settings.http_limits),
        ssl_certfile=node.settings.http_ssl_certfile,
        ssl_keyfile=node.settings.http_ssl_keyfile,
        accepting_path=str(node.state.accepting(worker)),
        software=software(),
    )
    return SpawnSpec(
        kind=ProcessKind.PROXY,
        name=proxy_name(worker),
        incarnation=0,
        entry="serve_rt.proxy.main:run",
        start=msgspec.to_builtins(start),
        cwd=str(node.state.path),
        threads=1,
        log_path=str(node.state.logs / f"proxy-{worker}.log"),
        title=f"serve-rt proxy {worker}",
        http_slot=worker,
    )


def adopted_http_port(handles: Iterable[Handle]) -> int:
    """The port that living proxies serve: kept, when any would do."""
    ports = [h.spec.start.get("port") for h in handles if h.kind is ProcessKind.PROXY and h.exited is None]
    return next((port for port in ports if isinstance(port, int)), 0)
