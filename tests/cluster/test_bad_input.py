"""Bad input: a clear message, a non-zero exit or a 4xx, and nothing left behind."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.conftest import ClusterFactory
from tests.cluster.harness import LocalCluster
from tests.cluster.processes import eventually


def _run(
    *arguments: str, module: str = "serve_rt.cli.main", env: dict[str, str] | None = None, cwd: Path | None = None
) -> tuple[int, str]:
    command = [sys.executable, "-m", module, *arguments]
    ended = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env, cwd=cwd, timeout=60
    )
    return ended.returncode, ended.stdout


@pytest.fixture
def alone(tmp_path: Path) -> dict[str, str]:
    """The environment of a user without any cluster."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SERVE_")}
    return {**kept, "SERVE_STATE_DIR": str(tmp_path / "state"), "PYTHONPATH": str(tmp_path)}


def test_status_without_a_cluster(alone: dict[str, str]) -> None:
    code, text = _run("status", env=alone)
    assert code != 0 and "Traceback" not in text
    assert "serve run" in text or "serve-agent" in text, "says how to start one"


def test_unknown_option_names_the_nearest(alone: dict[str, str]) -> None:
    code, text = _run("start", "--num-cpu", "2", module="serve_rt.agents.main", env=alone)
    assert code == 2 and "--num-cpus" in text


def test_state_dir_not_writable(alone: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "a-file"
    file.write_text("")
    code, text = _run("start", "--state-dir", str(file / "x"), module="serve_rt.agents.main", env=alone)
    assert code != 0 and str(file) in text and "Traceback" not in text


def test_port_taken_is_named_with_its_holder() -> None:
    cluster = LocalCluster()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        node = cluster.new_node("--http-port", str(port))
        node.launch()
        code = node.wait_agent(30)
        log = (node.state.path / "agent.log").read_text()
    cluster.close()
    assert code != 0 and str(port) in log and str(os.getpid()) in log and "Traceback" not in log


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("no_such_module_here:app", "no_such_module_here"),
        ("broken_module:app", "ZeroDivisionError"),
        ("plain_module:missing", "missing"),
        ("plain_module:number", "Application"),
    ],
)
def test_import_path_that_does_not_work(target: str, expected: str, cluster_of: ClusterFactory) -> None:
    cluster = cluster_of()
    user = cluster.folder / "user"
    (user / "broken_module.py").write_text("value = 1 / 0\n")
    (user / "plain_module.py").write_text("number = 7\n")
    ended = cluster.cli("run", target, timeout_s=30)
    text = ended.stdout + ended.stderr
    assert ended.returncode != 0 and expected in text
    assert "serve_rt/cli" not in text, "the user's traceback, not ours"
    assert not cluster.node.handles("replica")


def test_constructor_that_raises(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of()
    child = cluster.deploy_later("raises", max_constructor_retry_count=2)
    output, _ = child.communicate(timeout=60)
    assert child.returncode != 0 and "model file of this test is missing" in output
    overview = cluster.node.status().applications["default"]
    assert overview.status == "DEPLOY_FAILED"
    shown = overview.message + "".join(one.message for one in overview.deployments.values())
    assert "model file of this test is missing" in shown
    assert cluster.node.http("/")[0] == 503


def test_replica_that_exits_at_once(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of()
    child = cluster.deploy_later("exits", max_constructor_retry_count=2)
    output, _ = child.communicate(timeout=60)
    assert child.returncode != 0 and "7" in output
    assert cluster.node.status().applications["default"].status == "DEPLOY_FAILED"


def test_resource_nobody_has_is_pending_with_the_reason(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of()
    child = cluster.deploy_later("echo", ray_actor_options={"num_cpus": 1, "num_gpus": 3})
    try:
        pending = eventually(lambda: dict(cluster.node.nodes().pending), 15, "a pending deployment")
        assert "GPU" in " ".join(pending.values()).upper(), pending
    finally:
        child.kill()
        child.communicate()


def test_wrong_token_is_refused(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of()
    stranger = cluster.folder / "stranger"
    stranger.mkdir()
    (stranger / "token").write_text("ab" * 32)
    (stranger / "token").chmod(0o600)
    code, text = _run("status", env={**cluster.driver(), "SERVE_STATE_DIR": str(stranger)})
    assert code != 0 and "token" in text and "Traceback" not in text


def test_two_agents_with_one_node_id(cluster_of: ClusterFactory) -> None:
    cluster = LocalCluster(external_etcd=True)
    try:
        first = cluster.start_node("--node-id", "twin")
        second = cluster.new_node("--node-id", "twin")
        second.launch()
        assert second.wait_agent(40) != 0
        log = (second.state.path / "agent.log").read_text()
        assert "twin" in log and first.address in log and "Traceback" not in log
        assert first.status().proxies is not None, "the first one goes on"
    finally:
        cluster.close()


@pytest.mark.parametrize(
    ("raw", "allowed"),
    [
        (b"GET / HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n", {400}),
        (b"NONSENSE\r\n\r\n", {400}),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab", {400}),
        (b"GET / HTTP/1.1\r\nhost: x\r\nbig: " + b"a" * (1 << 20) + b"\r\n\r\n", {400, 431}),
    ],
)
def test_malformed_http(raw: bytes, allowed: set[int], proxy_port: int) -> None:
    with socket.create_connection(("127.0.0.1", proxy_port), timeout=10) as connection:
        try:
            connection.sendall(raw)
        except OSError:
            pass  # it may answer and close before all was sent
        try:
            answer = connection.recv(4096)
        except ConnectionResetError:
            answer = b""  # closed with our bytes unread: also an answer to a megabyte of headers
    assert not answer or int(answer.split()[1]) in allowed, answer[:100]
    with socket.create_connection(("127.0.0.1", proxy_port), timeout=10) as connection:
        connection.sendall(b"GET /-/healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert b" 200 " in connection.recv(4096), "others do not notice"


@pytest.fixture(scope="module")
def proxy_port() -> object:
    cluster = LocalCluster()
    try:
        cluster.start_node()
        cluster.deploy("echo")
        yield cluster.node.http_port
    finally:
        cluster.close()
