"""`--proxy-location`: which nodes of a real cluster serve HTTP, and who does when the head is gone."""

from __future__ import annotations

import socket

from tests.cluster.conftest import ClusterFactory, Show
from tests.cluster.harness import LocalCluster, Node
from tests.cluster.processes import eventually
from tests.load.process import LoadProcess


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def _address(cluster: LocalCluster, node: Node) -> str:
    (said,) = [one for one in cluster.node.nodes().nodes if one.node_id == node.ready["node_id"]]
    return said.http_address


def test_the_head_alone_serves_and_the_next_one_when_it_is_gone(cluster_of: ClusterFactory, show: Show) -> None:
    cluster = cluster_of(0, external_etcd=True)
    ports = [_free_port() for _ in range(2)]
    head = cluster.start_node("--proxy-location", "HeadOnly", "--http-port", str(ports[0]))
    other = cluster.start_node("--http-port", str(ports[1]))
    assert head.http_port == ports[0] and other.ready["http_address"] == ""
    assert _listens(ports[0]) and not _listens(ports[1]) and other.handles("proxy") == []
    cluster.deploy("echo", num_replicas=2)
    assert {node.http("/")[0] for node in (head,)} == {200}
    assert (_address(cluster, head), _address(cluster, other)) == (f"127.0.0.1:{ports[0]}", "")

    cluster.nodes.remove(head)
    cluster.nodes.append(head)  # `cluster.node` is the one that stays
    head.leave()
    eventually(lambda: _listens(ports[1]), 15, "the other node serves")
    eventually(lambda: _address(cluster, other) == f"127.0.0.1:{ports[1]}", 5, "and says where")
    other.ready["http_address"] = f"127.0.0.1:{ports[1]}"
    cluster.await_replicas(2)
    with LoadProcess(other.http_port, rate_per_s=50) as load:
        head.start()
        eventually(lambda: len(cluster.node.nodes().nodes) == 2, 10, "the former head is back")
    show("a former head joins", load.report)
    assert load.report.lost == 0 and load.report.ok, load.report.summary()
    assert not _listens(ports[0]) and head.ready["http_address"] == "", "it registered last"


def test_no_proxy_anywhere_and_the_cluster_s_word_wins(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of(0)
    first = cluster.start_node("--proxy-location", "Disabled")
    second = cluster.start_node("--proxy-location", "EveryNode")
    assert first.ready["http_address"] == "" == second.ready["http_address"]
    assert first.handles("proxy") == [] == second.handles("proxy")
    assert "--proxy-location EveryNode is ignored: the running cluster has Disabled" in second.logs()
    assert cluster.cli("status").returncode == 0
