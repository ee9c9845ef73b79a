"""Code that no version names any more leaves the disks of all nodes, and what is needed stays."""

from __future__ import annotations

from tests.cluster.conftest import ClusterFactory
from tests.cluster.faults import Kill, inject
from tests.cluster.harness import LocalCluster
from tests.cluster.processes import eventually

BLOBS = "/serve-rt/default/blobs/"


def _on_disk(cluster: LocalCluster) -> set[str]:
    return {path.name for node in cluster.nodes for path in node.state.blobs.iterdir() if len(path.name) == 64}


def _named(cluster: LocalCluster) -> set[str]:
    return {key.removeprefix(BLOBS).split("/")[0] for key in _keys(cluster)}


def _keys(cluster: LocalCluster) -> list[str]:
    assert cluster.etcd is not None
    return list(cluster.etcd.get(BLOBS))


def test_blobs_of_a_deleted_application_go_and_the_others_stay(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of(2, external_etcd=True, WAITS="blob_grace_s=1,blob_look_s=0.3")
    cluster.deploy("echo", num_replicas=2, arguments={"version": "stays"})
    cluster.await_replicas(2)
    stays = _on_disk(cluster)
    cluster.deploy("echo", name="other", route="/other", arguments={"version": "goes"})
    goes = _on_disk(cluster) - stays
    assert goes and _named(cluster) == stays | goes
    assert cluster.cli("delete", "other").returncode == 0
    eventually(lambda: _on_disk(cluster) == stays == _named(cluster), 20, "what only the deleted one had is gone")
    victim = cluster.await_replicas(2)[0]
    inject(Kill(victim.process))
    cluster.await_replicas(2)  # started again from what has stayed

    gone, name = cluster.nodes[1], str(cluster.nodes[1].ready["node_id"])
    assert any(key.endswith(f"/{name}") for key in _keys(cluster))
    gone.leave()
    assert not any(key.endswith(f"/{name}") for key in _keys(cluster)), "a node that is gone holds nothing"
