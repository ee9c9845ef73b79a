"""Redeploys that replace the ingress by a deployment of another name: the routes move when the new one is ready."""

from __future__ import annotations

import time

import pytest

from tests.cluster.conftest import ClusterFactory, Show
from tests.cluster.harness import LocalCluster
from tests.cluster.processes import eventually
from tests.load.outcomes import Report
from tests.load.process import LoadProcess

RATE = 50.0


def _renamed(cluster: LocalCluster) -> Report:
    cluster.deploy("echo", num_replicas=1, arguments={"version": "v1"})
    with LoadProcess(cluster.node.http_port, rate_per_s=RATE) as load:
        time.sleep(0.5)
        cluster.deploy("front", num_replicas=1, arguments={"version": "v2", "start_s": 1.5})
        eventually(lambda: cluster.node.json("/?nonce=x")["version"] == "v2", 20, "v2 answers")
        eventually(lambda: _deployments(cluster) == {"Front"}, 20, "the old ingress is gone")
        time.sleep(0.5)
    return load.report


def _deployments(cluster: LocalCluster) -> set[str]:
    return {handle.name.split("#")[1] for handle in cluster.node.replicas()}


def test_another_ingress_name_loses_nothing(cluster_of: ClusterFactory, show: Show) -> None:
    report = _renamed(cluster_of())
    show("redeploy under another ingress name", report)
    assert {record.version for record in report.records} == {"v1", "v2"}
    assert report.lost == 0 and report.refused == 0, report.summary()
    assert report.longest_gap_s() < 1.0, "the old ingress answers until the new one is ready"


@pytest.mark.chaos
def test_negative_control_without_the_handover_there_is_a_gap(cluster_of: ClusterFactory, show: Show) -> None:
    report = _renamed(cluster_of(disable="handover"))
    show("another ingress name, without the handover", report)
    assert report.lost or report.refused or report.longest_gap_s() > 1.0, "the test above cannot fail"


def test_a_bad_version_under_another_ingress_name_changes_nothing(cluster_of: ClusterFactory, show: Show) -> None:
    cluster = cluster_of()
    cluster.deploy("echo", num_replicas=2, arguments={"version": "v1"})
    before = {handle.key for handle in cluster.await_replicas(2)}
    with LoadProcess(cluster.node.http_port, rate_per_s=RATE) as load:
        child = cluster.deploy_later("bad_front", num_replicas=1, max_constructor_retry_count=2)
        output, _ = child.communicate(timeout=60)
        eventually(lambda: _deployments(cluster) == {"Echo"}, 20, "nothing of the bad version is left")
        time.sleep(0.5)
    show("a bad version under another ingress name", load.report)
    assert child.returncode != 0 and "model file of this test is missing" in output
    assert load.report.lost == 0 and load.report.refused == 0, load.report.summary()
    assert {record.version for record in load.report.records} == {"v1"}
    assert before == {handle.key for handle in cluster.await_replicas(2)}, "the same processes serve on"


def test_rollback_by_the_cli_loses_nothing(cluster_of: ClusterFactory, show: Show) -> None:
    cluster = cluster_of()
    cluster.deploy("echo", num_replicas=2, arguments={"version": "v1"})
    cluster.deploy("front", num_replicas=2, arguments={"version": "v2"})
    with LoadProcess(cluster.node.http_port, rate_per_s=RATE) as load:
        time.sleep(0.5)
        back = cluster.cli("rollback", "default")
        eventually(lambda: cluster.node.json("/?nonce=x")["version"] == "v1", 20, "v1 answers")
        eventually(lambda: _deployments(cluster) == {"Echo"}, 20, "v2 is gone")
    show("serve rollback", load.report)
    assert back.returncode == 0 and "runs version 1 again" in back.stdout, back.stdout + back.stderr
    assert load.report.lost == 0 and load.report.refused == 0, load.report.summary()
    history = cluster.cli("history", "default").stdout
    assert "version 1" in history and history.count("GOOD") == 2 and history.count("SERVING") == 1, history
    missing = cluster.cli("rollback", "default", "--to", "9")
    assert missing.returncode == 1 and "kept are the last ones: 1, 2, 3" in missing.stderr
