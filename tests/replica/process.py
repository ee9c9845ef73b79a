"""Real replica processes for tests: one per deployment under test, ended by pid."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve_rt.api.payload import Payload, pack
from serve_rt.credentials import ClusterToken
from serve_rt.model.ids import AppName, BlobDigest, DeploymentName, NodeId, ReplicaId, VersionId
from serve_rt.model.replica import Assignment
from serve_rt.model.spec import DeploymentOptions, DeploymentSpec
from serve_rt.model.starts import ReplicaStart
from serve_rt.wire.records import encode
from tests.replica.wire_client import PATIENCE_S, AgentSide, WireClient

REPLICA_ID = ReplicaId("app#D#abcdef")
ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class ReplicaProcess:
    process: subprocess.Popen[bytes]
    address: str
    token: ClusterToken
    log_path: Path
    start: ReplicaStart

    def client(self, *, credit: bool = True) -> WireClient:
        return WireClient(self.address, self.token, REPLICA_ID, credit=credit)

    def agent(self) -> AgentSide:
        return AgentSide(self.address, self.token)

    def log(self) -> str:
        return self.log_path.read_text()

    def wait_ended(self, timeout_s: float = PATIENCE_S) -> int:
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait(PATIENCE_S)


def start_replica(
    folder: Path,
    target: Callable[..., Any],
    *args: Any,
    options: DeploymentOptions | None = None,
    change_spec: Callable[[DeploymentSpec], DeploymentSpec] = lambda spec: spec,
    change_start: Callable[[ReplicaStart], ReplicaStart] = lambda start: start,
    env: dict[str, str] | None = None,
) -> ReplicaProcess:
    """A replica of `target(*args)`; returns at once, before it is ready."""
    folder.mkdir(parents=True, exist_ok=True)
    token = ClusterToken.create(folder / "token")
    payload = folder / "payload"
    modules = [sys.modules[target.__module__]]
    payload.write_bytes(pack(Payload(target, args, {}), modules))
    spec = change_spec(
        DeploymentSpec(
            name=DeploymentName("D"),
            version=VersionId("v1"),
            payload=BlobDigest("0" * 64),
            code=None,
            options=options or DeploymentOptions(),
            python_version=f"{sys.version_info.major}.{sys.version_info.minor}",
        )
    )
    port = free_port()
    start = change_start(
        ReplicaStart(
            cluster="c",
            node_id=NodeId("n"),
            assignment=Assignment(REPLICA_ID, NodeId("n"), AppName("app"), spec),
            incarnation=1,
            host="127.0.0.1",
            port=port,
            token_path=str(folder / "token"),
            agent_address="127.0.0.1:1",
            payload_path=str(payload),
            code_dir=None,
            state_dir=str(folder),
        )
    )
    start_path = folder / "start.json"
    start_path.write_bytes(encode(start))
    log_path = folder / "replica.log"
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("stub_launcher.py")), str(start_path)],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
    return ReplicaProcess(process, f"127.0.0.1:{port}", token, log_path, start)


__all__ = ["REPLICA_ID", "ReplicaProcess", "free_port", "start_replica"]
