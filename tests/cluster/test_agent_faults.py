"""The agent is the brain and may be killed at any time: replicas and proxies go on, and the next one adopts them."""

from __future__ import annotations

import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cluster.conftest import ClusterFactory, Show
from tests.cluster.faults import Fault, Kill, Together, inject
from tests.cluster.harness import LocalCluster
from tests.cluster.processes import eventually, processes_of
from tests.load.process import LoadProcess

RATE = 50.0


def test_killed_agent_with_a_replica_starting_one_draining_one_dead(cluster_of: ClusterFactory, show: Show) -> None:
    cluster = cluster_of()
    node = cluster.node
    cluster.deploy("echo", num_replicas=2)
    cluster.deploy("echo", name="leaving", route="/leaving")
    cluster.deploy("echo", name="mortal", route="/mortal", num_replicas=1)
    survivors = {handle.key for handle in cluster.await_replicas(2)}
    [mortal] = cluster.await_replicas(1, app="mortal")
    cluster.await_replicas(1, app="leaving")

    with LoadProcess(node.http_port, rate_per_s=RATE) as load, ThreadPoolExecutor(2) as pool:
        slow_answer = pool.submit(node.http, "/leaving/sleep?s=6&nonce=last")
        starting_driver = cluster.deploy_later("echo", name="starting", route="/starting", arguments={"start_s": 6})
        starting = eventually(lambda: node.replicas("starting"), 15, "the slow replica is starting")
        pool.submit(cluster.cli, "delete", "leaving")  # waits for the last request, and survives the agent or not
        eventually(lambda: _state(cluster, "leaving") == {"STOPPING"}, 10, "the old replica drains")

        faults: list[Fault] = [Kill(node.agent), Kill(mortal.process)]
        inject(Together(faults))
        killed_at = time.monotonic()
        node.start()
        back_s = time.monotonic() - killed_at
        [reborn] = cluster.await_replicas(1, app="mortal")
        adopted_s = time.monotonic() - killed_at
        [started] = cluster.await_replicas(1, app="starting", timeout_s=30)
        status, body = slow_answer.result(30)
        eventually(lambda: not node.replicas("leaving"), 30, "the draining replica is gone")
    show("agent kill -9", load.report)
    print(f"agent ready again after {back_s:.2f} s, the dead replica runs after {adopted_s:.2f} s")
    starting_driver.communicate(timeout=30)

    assert {handle.key for handle in cluster.await_replicas(2)} == survivors, "0 replicas restarted"
    assert started.key == starting[0].key, "the starting replica was not started again"
    assert reborn.name == mortal.name and reborn.process != mortal.process
    assert (status, b"last" in body) == (200, True), "the draining replica finished its request"
    assert load.report.lost == 0 and load.report.refused == 0, load.report.summary()


def _state(cluster: LocalCluster, app: str) -> set[str]:
    overview = cluster.node.nodes().nodes[0]
    return {replica.state for replica in overview.replicas if replica.replica_id.startswith(f"{app}#")}


def test_negative_control_without_adoption_replicas_restart(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of(disable="adopt")
    cluster.deploy("echo", num_replicas=2)
    before = {handle.key for handle in cluster.await_replicas(2)}
    inject(Kill(cluster.node.agent))
    cluster.node.start()
    after = {handle.key for handle in cluster.await_replicas(2, timeout_s=40)}
    assert not before & after, "the protection makes no difference: the test above cannot fail"


def test_sigterm_is_an_upgrade(cluster_of: ClusterFactory, show: Show) -> None:
    """SIGTERM ends the agent alone; the next one, perhaps of a newer version, takes over what runs."""
    cluster = cluster_of()
    node = cluster.node
    cluster.deploy("echo", num_replicas=2)
    before = {handle.key for handle in cluster.await_replicas(2)}
    proxies = {handle.key for handle in node.handles("proxy")}
    with LoadProcess(node.http_port, rate_per_s=RATE) as load:
        time.sleep(0.5)
        inject(Kill(node.agent, signal.SIGTERM, within_s=10))
        time.sleep(1.0)  # without an agent
        node.start()
        [*after] = cluster.await_replicas(2)
        inject(Kill(after[0].process))  # the new agent is in charge: it restarts what dies
        cluster.await_replicas(2)
    show("agent SIGTERM", load.report)
    assert {handle.key for handle in after} == before
    assert {handle.key for handle in node.handles("proxy")} == proxies
    assert load.report.lost == 0 and load.report.refused == 0, load.report.summary()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGHUP])
def test_sigint_leaves_nothing(cluster_of: ClusterFactory, signum: int) -> None:
    cluster = cluster_of()
    cluster.deploy("echo", num_replicas=2)
    started = time.monotonic()
    cluster.node.agent.signal(signum)
    assert cluster.node.wait_agent(15) in (0, 128 + signum, -signum)
    took_s = time.monotonic() - started
    eventually(lambda: not list(processes_of(cluster.folder)), 2, "no process is left")
    print(f"left after {took_s:.2f} s")
    assert took_s < 6, "idle: at most 3 s, twice that on a busy machine"


def test_stop_works_without_an_agent(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of()
    cluster.deploy("echo", num_replicas=2)
    inject(Kill(cluster.node.agent))
    cluster.node.leave()  # serve-agent stop, from the handle files
    eventually(lambda: not list(processes_of(cluster.folder)), 5, "no process is left")


def test_second_agent_on_one_state_dir_is_refused(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of()
    before = {handle.key for handle in cluster.node.handles("proxy")}
    refused = _second_agent(cluster)
    assert refused.returncode != 0 and str(cluster.node.state.path) in refused.stderr + refused.stdout
    assert "Traceback" not in refused.stderr
    assert {handle.key for handle in cluster.node.handles("proxy")} == before


def _second_agent(cluster: LocalCluster) -> subprocess.CompletedProcess[str]:
    import sys

    command = [sys.executable, "-m", "serve_rt.agents.main", "start", "--port", "0", "--http-port", "0"]
    command += ["--state-dir", str(cluster.node.state.path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, env=cluster.driver())
