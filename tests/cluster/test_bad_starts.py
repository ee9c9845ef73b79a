"""Versions that crash or hang when they start: tried with growing pauses, told of, and never in anybody's way."""

from __future__ import annotations

import time
from functools import partial

import pytest

from tests.cluster.conftest import ClusterFactory, Show
from tests.cluster.harness import LocalCluster
from tests.cluster.processes import eventually
from tests.load.process import LoadProcess

RATE = 50.0


def _is_answered_by(cluster: LocalCluster, version: str) -> bool:
    return bool(cluster.node.json("/?nonce=x")["version"] == version)


def _answers_v1(cluster: LocalCluster, show: Show, what: str, kind: str, **options: object) -> str:
    """What the driver of a bad deploy is told, while v1 answers everybody."""
    before = {handle.key for handle in cluster.await_replicas(2)}
    with LoadProcess(cluster.node.http_port, rate_per_s=RATE) as load:
        child = cluster.deploy_later(kind, num_replicas=2, **options)  # type: ignore[arg-type]  # options by name
        output, _ = child.communicate(timeout=60)
        time.sleep(0.3)
    show(what, load.report)
    assert child.returncode != 0, output
    assert load.report.lost == 0 and load.report.refused == 0, load.report.summary()
    assert {record.version for record in load.report.records} == {"v1"}
    assert before == {handle.key for handle in cluster.await_replicas(2)}
    return output


def test_a_constructor_that_hangs_is_ended_and_its_version_rolled_back(cluster_of: ClusterFactory, show: Show) -> None:
    cluster = cluster_of()
    cluster.deploy("echo", num_replicas=2, arguments={"version": "v1"})
    hangs = {"arguments": {"version": "v2", "start_s": 3600.0}, "startup_timeout_s": 1.0, "progress_deadline_s": 3.0}
    output = _answers_v1(cluster, show, "a constructor that hangs", "echo", **hangs)
    assert "rolled back" in output and "startup_timeout_s=1" in output, output
    status = cluster.cli("status").stdout
    assert "startup_timeout_s=1" in status, status
    assert "It stood here" in status and "in __init__" in status, status


def test_a_crash_loop_backs_off_and_disturbs_nobody(cluster_of: ClusterFactory, show: Show) -> None:
    """A first version that crashes for ever, beside another application under load."""
    cluster = cluster_of()
    cluster.deploy("echo", num_replicas=1, arguments={"version": "v1"})
    with LoadProcess(cluster.node.http_port, rate_per_s=RATE) as load:
        child = cluster.deploy_later("raises", name="bad", route="/bad", max_constructor_retry_count=3)
        output, _ = child.communicate(timeout=60)
        time.sleep(2.0)
    show("a crash loop beside it", load.report)
    assert child.returncode != 0 and "model file of this test is missing" in output
    assert load.report.lost == 0 and load.report.refused == 0, load.report.summary()
    starts = [line for line in cluster.node.logs(400).splitlines() if "launcher started bad#" in line]
    assert 3 <= len(set(starts)) <= 8, starts
    assert "model file of this test is missing" in cluster.cli("status", "--name", "bad").stdout


@pytest.mark.chaos
def test_twenty_updates_in_a_row_lose_nothing(cluster_of: ClusterFactory, show: Show) -> None:
    """There and back again, under two names for the ingress in turn: as many answers of each version as it takes, and
    streams beside them, each whole."""
    cluster = cluster_of()
    cluster.deploy("echo", num_replicas=2, arguments={"version": "v0"})
    fewest, port = [], cluster.node.http_port
    with (
        LoadProcess(port, rate_per_s=5, shooter="slow_stream", path="/stream") as streams,
        LoadProcess(port, rate_per_s=RATE) as load,
    ):
        for number in range(1, 21):
            kind = ("echo", "front")[number // 2 % 2]
            cluster.deploy(kind, num_replicas=2, arguments={"version": f"v{number}"})
            states = cluster.node.status().applications["default"].deployments.values()
            fewest.append(max(one.replica_states.get("RUNNING", 0) for one in states))
            eventually(partial(_is_answered_by, cluster, f"v{number}"), 20, "it answers")
    show("twenty updates", load.report)
    assert load.report.lost == 0 and load.report.refused == 0, load.report.summary()
    show("streams over twenty updates", streams.report)
    assert streams.report.lost == 0 and streams.report.refused == 0 and streams.report.ok, streams.report.summary()
    assert min(fewest) >= 2, "ready never below the floor"
    assert load.report.longest_gap_s() < 1.0
