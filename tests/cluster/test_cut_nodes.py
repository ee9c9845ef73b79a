"""Nodes that vanish while their replicas live: cut off from etcd, their agent frozen, or frozen as a whole.

Leases are shortened here; the chaos versions have the promised ones.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.cluster.conftest import ClusterFactory, Show
from tests.cluster.etcd_link import EtcdLink
from tests.cluster.faults import Freeze, Together, applied
from tests.cluster.harness import LocalCluster, Node
from tests.cluster.processes import eventually, processes_of
from tests.load.process import LoadProcess

RATE = 50.0
NODES = "/serve-rt/default/nodes/"
SHORT = "node_lease_s=2,node_grace_s=2"
SHORT_S, FULL_S = 4.0, 20.0
"""Lease and grace."""


def _registered(cluster: LocalCluster) -> int:
    assert cluster.etcd is not None
    return len(cluster.etcd.get(NODES))


def _counts(cluster: LocalCluster) -> list[int]:
    return [len(node.replicas()) for node in cluster.nodes]


def _keys(nodes: list[Node]) -> set[object]:
    return {handle.key for node in nodes for handle in node.replicas()}


@contextmanager
def _three_nodes(cluster_of: ClusterFactory, **waits: str) -> Iterator[tuple[LocalCluster, list[EtcdLink]]]:
    """The first has its own way to etcd and the only candidate; the two others can be cut off. Two replicas each."""
    cluster = cluster_of(1, external_etcd=True, **waits)
    assert cluster.etcd is not None
    links = [EtcdLink(cluster.etcd.endpoint).start() for _ in range(2)]
    try:
        for link in links:
            cluster.start_node("--no-controller", "--no-proxy", etcd=link.endpoint)
        cluster.deploy("echo", num_replicas=6, arguments={"sleep_ms": 5})
        eventually(lambda: _counts(cluster) == [2, 2, 2], 10, "two replicas on each node")
        cluster.await_replicas(6)
        yield cluster, links
    finally:
        for link in links:
            link.heal()
        cluster.close()  # before its ways to etcd are gone
        for link in links:
            link.close()


def _cut(cluster: LocalCluster, links: list[EtcdLink], within_s: float) -> None:
    left = _registered(cluster) - len(links)
    for link in links:
        link.cut()
    eventually(lambda: _registered(cluster) == left, within_s, "their registrations end")
    assert all(link.held_bytes for link in links), "the cut held nothing back: it did not bite"


def _minority_and_majority(cluster: LocalCluster, links: list[EtcdLink], wait_s: float, show: Show) -> None:
    originals, far = _keys(cluster.nodes), cluster.nodes[1:]
    with LoadProcess(cluster.node.http_port, rate_per_s=RATE) as load:
        _cut(cluster, links[:1], wait_s + 3)
        eventually(lambda: sum(_counts(cluster)) == 8, wait_s + 5, "both replicas of the lost node are replaced")
        assert originals < _keys(cluster.nodes), "nothing is killed: they serve on"
        links[0].heal()
        healed_at = time.monotonic()
        eventually(lambda: _keys(cluster.nodes) == originals, 15, "the originals stay, their replacements go")
        print(f"one node cut off and back: as before {time.monotonic() - healed_at:.1f} s after the healing")
        cluster.await_replicas(6)

        _cut(cluster, links, wait_s + 3)
        cut_at = time.monotonic()
        eventually(lambda: any("vanished at once" in note for note in cluster.node.status().notes), 5, "it is told")
        time.sleep(max(0.0, wait_s + 1.0 - (time.monotonic() - cut_at)))
        assert _keys(cluster.nodes) == originals, "most nodes are gone at once: nobody is replaced or killed"
        asked = {cluster.node.json("/?nonce=x")["pid"] for _ in range(60)}
        assert {handle.process.pid for node in far for handle in node.replicas()} <= asked, "they serve on"
        for link in links:
            link.heal()
        eventually(lambda: _registered(cluster) == 3, 15, "all are back")
        # With the short grace the second one may come back too late to be waited for; then its originals stay anyhow.
        eventually(lambda: _keys(cluster.nodes) == originals, 15, "the originals and nothing else")
        cluster.await_replicas(6)
    show("one node of three cut off from etcd, then two", load.report)
    assert load.report.lost == 0 and load.report.refused == 0, load.report.summary()


def test_nodes_cut_off_from_etcd(cluster_of: ClusterFactory, show: Show) -> None:
    """One of three is replaced after its grace; two of three are not, which is also the control of the first."""
    with _three_nodes(cluster_of, WAITS=SHORT) as (cluster, links):
        _minority_and_majority(cluster, links, SHORT_S, show)


@pytest.mark.chaos
def test_nodes_cut_off_from_etcd_for_as_long_as_promised(cluster_of: ClusterFactory, show: Show) -> None:
    with _three_nodes(cluster_of) as (cluster, links):
        _minority_and_majority(cluster, links, FULL_S, show)


# --- frozen -------------------------------------------------------------------------------------------------------


def _frozen(cluster: LocalCluster, whole: bool, stopped_s: float, wait_s: float, show: Show) -> None:
    """The agent of one of two nodes, or everything on it, is stopped without a word to anybody; then it goes on."""
    lost = cluster.nodes[1]
    originals = _keys(cluster.nodes)
    victims = [lost.agent] if not whole else [process for process, _ in processes_of(lost.state.path)]
    with LoadProcess(cluster.node.http_port, rate_per_s=RATE) as load:
        time.sleep(0.5)
        with applied(Together([Freeze(process) for process in victims])):
            began = time.monotonic()
            eventually(lambda: len(cluster.node.replicas()) == 4, wait_s + 15, "both are replaced on the other node")
            print(f"replaced after {time.monotonic() - began:.1f} s")
            assert originals < _keys(cluster.nodes), "nobody ends what may still run"
            time.sleep(max(0.0, stopped_s - (time.monotonic() - began)))
        healed_at = time.monotonic()
        eventually(lambda: sum(_counts(cluster)) == 4, 20, "one copy of each")
        print(f"one copy {time.monotonic() - healed_at:.1f} s after its return")
        cluster.await_replicas(4)
    show(f"{'a node' if whole else 'an agent'} frozen", load.report)
    assert load.report.lost == 0 and load.report.refused == 0, load.report.summary()
    late = [line for line in lost.logs(400).splitlines() if "killing" in line or "replica_started" in line]
    assert not [line for line in late if "incarnation=1" not in line and "killing" not in line], late


def _two_nodes(cluster_of: ClusterFactory, **waits: str) -> LocalCluster:
    cluster = cluster_of(1, external_etcd=True, **waits)
    cluster.start_node("--no-controller", "--no-proxy")
    cluster.deploy("echo", num_replicas=4, arguments={"sleep_ms": 5})
    eventually(lambda: _counts(cluster) == [2, 2], 10, "two replicas on each node")
    cluster.await_replicas(4)
    return cluster


@pytest.mark.chaos
@pytest.mark.parametrize("whole", [False, True], ids=["agent", "node"])
def test_frozen_for_a_short_time(cluster_of: ClusterFactory, show: Show, *, whole: bool) -> None:
    _frozen(_two_nodes(cluster_of, WAITS=SHORT), whole, 6.0, SHORT_S, show)


@pytest.mark.chaos
@pytest.mark.parametrize("whole", [False, True], ids=["agent", "node"])
def test_frozen_for_a_minute(cluster_of: ClusterFactory, show: Show, *, whole: bool) -> None:
    _frozen(_two_nodes(cluster_of), whole, 60.0, FULL_S, show)
