"""`serve drain`, `cordon`, `uncordon` and `nodes forget`, as an operator types them, with clients at work."""

from __future__ import annotations

import signal
import time

import pytest

from tests.cluster.conftest import ClusterFactory, Show
from tests.cluster.harness import LocalCluster, Node
from tests.cluster.processes import eventually
from tests.load.process import LoadProcess

RATE = 50.0


def _said(cluster: LocalCluster, *arguments: str) -> str:
    done = cluster.cli(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _counts(cluster: LocalCluster) -> list[int]:
    return [len(node.replicas()) for node in cluster.nodes]


def _name(node: Node) -> str:
    return str(node.ready["node_id"])


def test_a_drained_node_is_empty_and_nobody_noticed(cluster_of: ClusterFactory, show: Show) -> None:
    """Replacement first; then cordoned nodes get none, and uncordoned ones do."""
    cluster = cluster_of(2)
    cluster.deploy("echo", num_replicas=4, arguments={"sleep_ms": 20})
    assert sorted(_counts(cluster)) == [2, 2]
    first, second = cluster.nodes
    with LoadProcess(first.http_port, rate_per_s=RATE) as load:
        out = _said(cluster, "drain", _name(second), "--timeout-s", "40")
    show("a node is drained", load.report)
    assert "is drained" in out and _counts(cluster) == [4, 0]
    assert load.report.lost == 0 and load.report.refused == 0 and load.report.ok, load.report.summary()

    _said(cluster, "cordon", _name(second))
    cluster.deploy("echo", num_replicas=6, arguments={"sleep_ms": 20})
    cluster.await_replicas(6)
    assert _counts(cluster) == [6, 0]
    _said(cluster, "uncordon", _name(second))
    cluster.deploy("echo", num_replicas=7, arguments={"sleep_ms": 20})
    cluster.await_replicas(7)
    assert _counts(cluster) == [6, 1]
    assert _said(cluster, "autoscale", "--dry-run").strip().endswith("a fixed number of replicas")


def test_a_node_that_nobody_can_replace_keeps_its_replicas(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of(1)
    cluster.deploy("echo", num_replicas=1)
    (before,) = cluster.await_replicas(1)
    done = cluster.cli("drain", _name(cluster.node), "--timeout-s", "1.5")
    assert done.returncode != 0 and "is cordoned or draining" in done.stderr, done.stdout + done.stderr
    assert cluster.node.http("/")[0] == 200 and cluster.await_replicas(1)[0].key == before.key
    for wrong, word in ((("drain", "nobody"), "nobody"), (("nodes", "forget", _name(cluster.node)), "alive")):
        refused = cluster.cli(*wrong)
        assert refused.returncode == 1 and word in refused.stderr, refused.stderr


@pytest.mark.chaos
def test_a_forgotten_node_is_replaced_at_once(cluster_of: ClusterFactory) -> None:
    """Its registration ends with its lease; then the operator's word is quicker than the grace."""
    cluster = cluster_of(2)
    cluster.deploy("echo", num_replicas=2)
    gone = cluster.nodes[1]
    name = _name(gone)
    (lost,) = gone.replicas()
    gone.agent.signal(signal.SIGSTOP)
    try:
        eventually(lambda: name not in _registered(cluster), 30, "its lease ends")
        _said(cluster, "nodes", "forget", name)
        eventually(lambda: len(cluster.node.replicas()) == 2, 5, "both replicas are on the other node")
    finally:
        gone.agent.signal(signal.SIGCONT)
    eventually(lambda: name in _registered(cluster), 30, "it is back")
    eventually(lambda: not lost.process.alive(), 20, "what it still ran has ended")
    assert len(cluster.await_replicas(2)) == 2


def _registered(cluster: LocalCluster) -> set[str]:
    return {one.node_id for one in cluster.node.nodes().nodes if one.alive}


@pytest.mark.chaos
def test_a_lost_node_is_replaced_after_its_grace_and_one_copy_stays(cluster_of: ClusterFactory, show: Show) -> None:
    """Only its agent is lost: its replicas serve on as suspects, and one copy of each goes when it is back."""
    cluster = cluster_of(2)
    cluster.deploy("echo", num_replicas=4, arguments={"sleep_ms": 20})
    lost = cluster.nodes[1]
    with LoadProcess(cluster.node.http_port, rate_per_s=RATE) as load:
        lost.agent.signal(signal.SIGSTOP)
        try:
            eventually(lambda: len(cluster.node.replicas()) == 4, 40, "both are replaced on the other node")
            assert all(handle.process.alive() for handle in lost.replicas()), "they are left alone"
        finally:
            lost.agent.signal(signal.SIGCONT)
        started = time.monotonic()
        eventually(lambda: sum(_counts(cluster)) == 4, 20, "one copy of each")
        print(f"one copy {time.monotonic() - started:.1f} s after its return")
        cluster.await_replicas(4)
    show("a node is lost and returns", load.report)
    assert load.report.lost == 0 and load.report.refused == 0 and load.report.ok, load.report.summary()
