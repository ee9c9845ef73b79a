"""The controller's leader dies: requests do not notice, and a new leader takes over."""

from __future__ import annotations

import json
import signal
import time

from tests.cluster.conftest import ClusterFactory, Show
from tests.cluster.faults import Kill, inject
from tests.cluster.harness import LocalCluster
from tests.cluster.processes import ProcessId, eventually
from tests.load.process import LoadProcess

RATE = 50.0


def leader(cluster: LocalCluster) -> ProcessId | None:
    assert cluster.etcd is not None
    for key, value in cluster.etcd.get("/serve-rt/").items():
        if key.endswith("/leader"):
            pid = int(json.loads(value)["pid"])
            return ProcessId.of(pid) if _exists(pid) else None
    return None


def _exists(pid: int) -> bool:
    from tests.cluster.processes import stat_of

    return stat_of(pid) is not None


def _new_leader(cluster: LocalCluster, old: ProcessId, timeout_s: float) -> float:
    """Seconds until another process leads."""
    started = time.monotonic()
    eventually(lambda: (found := leader(cluster)) and found != old and found.alive(), timeout_s, "a new leader")
    return time.monotonic() - started


def test_killed_leader_is_replaced(cluster_of: ClusterFactory, show: Show) -> None:
    cluster = cluster_of(2, external_etcd=True)
    cluster.deploy("echo", num_replicas=2)
    replicas = {handle.key for handle in cluster.await_replicas(2)}
    old = eventually(lambda: leader(cluster), 5, "a leader")

    with LoadProcess(cluster.node.http_port, rate_per_s=RATE) as load:
        time.sleep(0.5)
        inject(Kill(old))
        child = cluster.deploy_later("echo", name="after", route="/after")  # while nobody leads
        without_s = _new_leader(cluster, old, 13.0)
        output, _ = child.communicate(timeout=40)
        assert child.returncode == 0, output
    show("leader kill -9", load.report)
    print(f"a new leader after {without_s:.1f} s")

    assert {handle.key for handle in cluster.await_replicas(2)} == replicas, "the new leader adopts"
    assert load.report.lost == 0 and load.report.refused == 0, load.report.summary()


def test_leader_stopped_politely_hands_over_at_once(cluster_of: ClusterFactory, show: Show) -> None:
    cluster = cluster_of(2, external_etcd=True)
    cluster.deploy("echo", num_replicas=2)
    replicas = {handle.key for handle in cluster.await_replicas(2)}
    with LoadProcess(cluster.node.http_port, rate_per_s=RATE) as load:
        for signum in (signal.SIGTERM, signal.SIGINT):
            time.sleep(0.5)  # load before the fault and between the two
            old = eventually(lambda: leader(cluster), 5, "a leader")
            old.signal(signum)
            without_s = _new_leader(cluster, old, 5.0)
            print(f"{signal.Signals(signum).name}: a new leader after {without_s:.2f} s")
            assert without_s < 1.0, "0.5 s, and as much for a busy machine"
        time.sleep(0.5)  # a loss may come after the election
    show("leader SIGTERM and SIGINT", load.report)
    assert {handle.key for handle in cluster.await_replicas(2)} == replicas
    assert load.report.lost == 0 and load.report.refused == 0, load.report.summary()


def test_replicas_spread_over_both_agents_and_survive_the_leaders_whole_node(
    cluster_of: ClusterFactory, show: Show
) -> None:
    """kill -9 of the agent and the leader on it: the other node's proxy goes on with the replicas of both."""
    cluster = cluster_of(2, external_etcd=True, WAITS="leader_lease_s=3")
    cluster.deploy("echo", num_replicas=2)
    cluster.await_replicas(2)
    assert all(node.replicas() for node in cluster.nodes), "spread by default"
    old = eventually(lambda: leader(cluster), 5, "a leader")
    host = next(node for node in cluster.nodes if any(h.process == old for h in node.handles("controller")))
    other = next(node for node in cluster.nodes if node is not host)

    with LoadProcess(other.http_port, rate_per_s=RATE) as load:
        time.sleep(0.5)
        inject(Kill(host.agent))
        inject(Kill(old))
        _new_leader(cluster, old, 13.0)
        host.start()
        cluster.await_replicas(2)
    show("leader and its agent kill -9", load.report)
    assert load.report.lost == 0 and load.report.refused == 0, load.report.summary()


def test_with_the_push_cut_the_watch_alone_must_do(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of(2, external_etcd=True, disable="push")
    cluster.deploy("echo", num_replicas=4)
    cluster.await_replicas(4)
    assert cluster.cli("delete", "default").returncode == 0
    eventually(lambda: not any(node.replicas() for node in cluster.nodes), 20, "all replicas are gone")
