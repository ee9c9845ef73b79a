"""Redeploys under load: the new version is ready before an old replica is touched, a bad one never takes its place."""

from __future__ import annotations

import time

from tests.cluster.conftest import ClusterFactory, Show
from tests.cluster.harness import LocalCluster
from tests.cluster.processes import eventually
from tests.load.outcomes import Report
from tests.load.process import LoadProcess

RATE = 50.0


def _redeployed(cluster: LocalCluster) -> Report:
    cluster.deploy("echo", num_replicas=1, arguments={"version": "v1"})
    with LoadProcess(cluster.node.http_port, rate_per_s=RATE) as load:
        time.sleep(0.5)
        cluster.deploy("echo", num_replicas=1, arguments={"version": "v2", "start_s": 1.5})
        eventually(lambda: _versions(cluster) == {"v2"}, 20, "only v2 answers")
        time.sleep(0.5)
    return load.report


def _versions(cluster: LocalCluster) -> set[str]:
    return {cluster.node.json("/?nonce=x")["version"] for _ in range(10)}


def test_redeploy_loses_nothing(cluster_of: ClusterFactory, show: Show) -> None:
    report = _redeployed(cluster_of())
    show("redeploy of one replica", report)
    assert {record.version for record in report.records} == {"v1", "v2"}
    assert report.lost == 0 and report.refused == 0, report.summary()
    assert report.longest_gap_s() < 1.0, "ready never below one"


def test_negative_control_without_surge_there_is_a_gap(cluster_of: ClusterFactory, show: Show) -> None:
    report = _redeployed(cluster_of(disable="surge"))
    show("redeploy without surge", report)
    assert report.lost or report.refused or report.longest_gap_s() > 1.0, "the test above cannot fail"


def test_the_same_version_restarts_nothing(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of()
    cluster.deploy("echo", num_replicas=2)
    before = {handle.key for handle in cluster.await_replicas(2)}
    cluster.deploy("echo", num_replicas=2)
    assert {handle.key for handle in cluster.await_replicas(2)} == before


def test_a_bad_version_never_takes_the_old_ones_place(cluster_of: ClusterFactory, show: Show) -> None:
    cluster = cluster_of()
    cluster.deploy("echo", num_replicas=2, arguments={"version": "v1"})
    before = {handle.key for handle in cluster.await_replicas(2)}
    with LoadProcess(cluster.node.http_port, rate_per_s=RATE) as load:
        child = cluster.deploy_later("bad_echo", num_replicas=2, max_constructor_retry_count=2)
        output, _ = child.communicate(timeout=60)
        time.sleep(0.5)
    show("redeploy of a version that raises", load.report)
    assert child.returncode != 0 and "model file of this test is missing" in output
    assert load.report.lost == 0 and load.report.refused == 0, load.report.summary()
    assert {record.version for record in load.report.records} == {"v1"}
    assert before <= {handle.key for handle in cluster.node.replicas()}


def test_code_travels_to_the_second_agent(cluster_of: ClusterFactory) -> None:
    """The user's module lies in one folder only; both nodes run it, also after that folder is gone."""
    cluster = cluster_of(2, external_etcd=True)
    cluster.deploy("echo", num_replicas=4)
    cluster.await_replicas(4)
    assert all(node.replicas() for node in cluster.nodes), "spread over both"
    for name in ("apps.py", "deploy.py"):
        (cluster.folder / "user" / name).unlink()
    victim = cluster.nodes[1].replicas()[0]
    victim.process.kill_if_alive()
    cluster.await_replicas(4)
