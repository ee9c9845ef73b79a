"""Real agents, with a real launcher and a real etcd: how they start, refuse to start, and end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serve_rt.agents.launcher.client import LauncherClient
from serve_rt.agents.launcher.records import ProcessKind, SpawnSpec
from tests.agents.fake_leader import FakeLeader
from tests.cluster.etcd_server import free_ports
from tests.cluster.harness import LocalCluster, Node
from tests.cluster.processes import ProcessId, eventually, processes_of

QUIET = ("--no-controller", "--no-proxy")
NodeFactory = Callable[..., Node]


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    made = LocalCluster()
    yield made
    made.close()


@pytest.fixture
def external() -> Iterator[LocalCluster]:
    made = LocalCluster(external_etcd=True)
    yield made
    made.close()


def run_agent(*arguments: str, timeout_s: float = 30.0, **env: str) -> tuple[int, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SERVE_")}
    done = subprocess.run(
        [sys.executable, "-m", "serve_rt.agents.main", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env={**kept, **env},
    )
    return done.returncode, done.stdout + done.stderr


def nothing_runs(folder: Path) -> bool:
    return not list(processes_of(folder))


def test_an_agent_registers_itself_and_leaves_nothing(cluster: LocalCluster) -> None:
    node = cluster.start_node(*QUIET, "--num-gpus", "2", "--labels", "zone=a")
    leader = FakeLeader(node, node.etcd_socket())
    record = leader.registered()
    assert record is not None
    assert record.address == node.address == node.state.address.read_text().strip()
    assert record.resources.milli_cpu == 32_000
    assert [gpu.fake for gpu in record.resources.gpus] == [True, True]
    assert record.labels == {"zone": "a"}
    began = time.monotonic()
    node.leave()
    assert time.monotonic() - began < 3.0
    assert nothing_runs(node.state.path)
    assert not node.state.address.exists()


def test_a_state_dir_in_use_names_the_agent(cluster: LocalCluster) -> None:
    node = cluster.start_node(*QUIET)
    code, text = run_agent("--state-dir", str(node.state.path), *QUIET)
    assert code == 1
    assert f"pid {node.agent.pid}" in text
    assert "Traceback" not in text
    assert node.agent.alive()


def test_a_taken_port_is_named_with_its_holder_and_nothing_is_left(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        code, text = run_agent("--state-dir", str(tmp_path / "s"), "--port", str(port), *QUIET)
    assert code == 1
    assert f"127.0.0.1:{port}" in text
    assert f"pid {os.getpid()}" in text
    assert nothing_runs(tmp_path)


def test_a_taken_http_port_is_named_and_nothing_is_left(cluster: LocalCluster) -> None:
    folder = cluster.folder / "taken"
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        code, text = run_agent("--state-dir", str(folder), "--port", "0", "--http-port", str(port))
    assert code == 1
    assert str(port) in text
    assert str(os.getpid()) in text
    assert "Traceback" not in text
    eventually(lambda: nothing_runs(folder), 5.0, "nothing of the failed start runs")


def test_an_unreachable_etcd_is_named_by_an_agent_that_never_ran(cluster: LocalCluster) -> None:
    folder = cluster.folder / "lonely"
    [port] = free_ports(1)
    began = time.monotonic()
    code, text = run_agent("--state-dir", str(folder), "--port", "0", "--etcd", f"127.0.0.1:{port}", *QUIET)
    assert code == 1
    assert f"127.0.0.1:{port}" in text
    assert "--etcd" in text
    assert "Traceback" not in text
    assert 8.0 < time.monotonic() - began < 16.0
    eventually(lambda: nothing_runs(folder), 5.0, "nothing of the failed start runs")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--num-cpu", "2"), "--num-cpus"),
        (("start", "--htp-port", "1"), "--http-port"),
        (("--host", "0.0.0.0"), "--insecure"),
        (("--replica-ports", "9"), "--replica-ports"),
        (("--etcd", "nowhere"), "--etcd"),
        (("stop", "--state-di", "x"), "--state-dir"),
    ],
)
def test_a_wrong_option_is_told_in_one_sentence(tmp_path: Path, arguments: tuple[str, ...], named: str) -> None:
    code, text = run_agent(*arguments, SERVE_STATE_DIR=str(tmp_path / "s"))
    assert code != 0
    assert named in text
    assert "Traceback" not in text


def test_a_state_dir_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    code, text = run_agent("--state-dir", str(file / "s"))
    assert code == 1
    assert str(file / "s") in text
    assert "Traceback" not in text


def test_one_node_id_is_one_agent(external: LocalCluster) -> None:
    first = external.start_node(*QUIET, "--node-id", "twin")
    second = external.new_node(*QUIET, "--node-id", "twin")
    second.launch()
    assert second.wait_agent(20) == 1
    said = (second.state.path / "agent.log").read_text()
    assert first.address in said
    assert "twin" in said
    assert "Traceback" not in said
    assert first.agent.alive()


def test_a_successor_takes_the_registration_over_at_once(external: LocalCluster) -> None:
    node = external.start_node(*QUIET)
    assert external.etcd is not None
    leader = FakeLeader(node, external.etcd.endpoint)
    first = leader.registered()
    node.agent.signal(signal.SIGKILL)
    node.wait_agent()
    began = time.monotonic()
    node.start()
    took_s = time.monotonic() - began
    second = leader.registered()
    assert first is not None
    assert second is not None
    assert second.session != first.session
    assert second.address == first.address, "the port of the former life is kept: others remember it"
    assert took_s < 2.0, f"it waited for the old lease ({took_s:.1f} s)"


def test_the_owner_takes_the_node_with_it(cluster: LocalCluster) -> None:
    owner = subprocess.Popen(["sleep", "60"])
    node = cluster.start_node(*QUIET, "--owner-pid", str(owner.pid))
    owner.kill()
    owner.wait()
    assert node.wait_agent() == 0
    assert nothing_runs(node.state.path)
    assert not (node.state.etcd / "data").exists(), "an owned cluster is forgotten with its owner"


def test_sigterm_ends_the_agent_alone_and_stop_ends_the_rest(cluster: LocalCluster) -> None:
    node = cluster.start_node(*QUIET)
    [etcd] = node.handles("etcd")
    node.agent.signal(signal.SIGTERM)
    assert node.wait_agent() == 0
    assert etcd.process.alive()
    assert "serve-agent stop" in (node.state.path / "agent.log").read_text()
    node.leave()  # `serve-agent stop`, from the handle files
    assert nothing_runs(node.state.path)


def test_stop_asks_the_running_agent(cluster: LocalCluster) -> None:
    node = cluster.start_node(*QUIET)
    code, text = run_agent("stop", "--state-dir", str(node.state.path))
    assert (code, "stopped" in text) == (0, True), text
    assert node.wait_agent() == 0
    assert nothing_runs(node.state.path)


def test_stop_where_nothing_runs_says_so(tmp_path: Path) -> None:
    code, text = run_agent("stop", "--state-dir", str(tmp_path / "none"))
    assert code == 0
    assert "nothing runs" in text


def test_a_killed_etcd_and_a_killed_launcher_are_replaced(cluster: LocalCluster) -> None:
    node = cluster.start_node(*QUIET)
    [etcd] = node.handles("etcd")
    etcd.process.signal(signal.SIGKILL)
    [again] = eventually(
        lambda: [h for h in node.handles("etcd") if h.incarnation > etcd.incarnation], 5.0, "a second etcd"
    )
    launcher = node.launcher()
    launcher.signal(signal.SIGKILL)
    eventually(lambda: another_launcher(node, launcher), 5.0, "a second launcher")
    assert again.process.alive(), "the children of the dead launcher go on"
    assert node.agent.alive()


def test_leaving_ends_what_a_dead_launcher_had_forked_and_told_nobody(cluster: LocalCluster) -> None:
    node = cluster.start_node(*QUIET)
    stray = asyncio.run(spawn_behind_its_back(node))
    launcher = node.launcher()
    launcher.signal(signal.SIGKILL)
    eventually(lambda: another_launcher(node, launcher), 5.0, "a second launcher")
    assert stray.alive()
    node.leave()
    assert not stray.alive()


async def spawn_behind_its_back(node: Node) -> ProcessId:
    client = await LauncherClient.connect(node.state, start_if_absent=False)
    try:
        spec = SpawnSpec(
            ProcessKind.CONTROLLER, "stray", 1, argv=("/bin/sleep", "60"), log_path=str(node.state.logs / "stray.log")
        )
        return ProcessId.of((await client.spawn(spec)).pid)
    finally:
        await client.close()


def another_launcher(node: Node, former: ProcessId) -> bool:
    try:
        return node.launcher() != former
    except OSError:
        return False


def test_the_last_agent_with_the_etcd_of_others_does_not_leave_unasked(cluster: LocalCluster) -> None:
    host = cluster.start_node(*QUIET)
    cluster.start_node(*QUIET)
    leader = FakeLeader(host, host.etcd_socket())
    eventually(lambda: leader.registered(), 5.0, "the host is registered")
    code, text = run_agent("stop", "--state-dir", str(host.state.path))
    assert code == 1
    assert "--force" in text
    assert host.agent.alive()
    cluster.nodes[1].leave()
