"""A version that gets ready and then fails: few requests see it before it is rolled back."""

from __future__ import annotations

import time
from typing import Any

import pytest

from serve_rt.model.status import VersionState
from tests.cluster.conftest import ClusterFactory, Show
from tests.cluster.harness import LocalCluster
from tests.cluster.processes import eventually
from tests.load.outcomes import Report
from tests.load.process import LoadProcess

RATE = 50.0
GUARDED: dict[str, Any] = {"num_replicas": 3, "guard_config": {"latency_factor": 4.0, "window_s": 3.0}}


def _updated(cluster: LocalCluster, **arguments: Any) -> tuple[Report, str, int]:
    """Deploy a version that will be bad; what callers saw, what the driver was told, and how it ended."""
    cluster.deploy("echo", arguments={"version": "v1"}, **GUARDED)
    cluster.await_replicas(3)
    with LoadProcess(cluster.node.http_port, rate_per_s=RATE) as load:
        time.sleep(0.5)
        child = cluster.deploy_later("echo", arguments={"version": "v2", **arguments}, **GUARDED)
        output, _ = child.communicate(timeout=60)
        time.sleep(1.0)
    return load.report, output, child.returncode


@pytest.mark.parametrize("fails", ["raises", pytest.param("exits", marks=pytest.mark.chaos)])
def test_a_version_that_fails_is_rolled_back_by_its_first_replica(
    cluster_of: ClusterFactory, show: Show, fails: str
) -> None:
    cluster = cluster_of()
    report, output, returncode = _updated(cluster, fails=fails)
    show(f"a guarded version that {fails}", report)
    assert returncode != 0 and "worse than the version before it" in output, output
    assert report.lost <= 50, report.summary()
    _rolled_back(cluster)


@pytest.mark.chaos
def test_a_slow_version_is_rolled_back(cluster_of: ClusterFactory, show: Show) -> None:
    cluster = cluster_of()
    report, output, returncode = _updated(cluster, sleep_ms=300)
    show("a guarded version that is slow", report)
    assert returncode != 0 and "answers took more than" in output, output
    assert report.lost == 0, report.summary()
    _rolled_back(cluster)


def _rolled_back(cluster: LocalCluster) -> None:
    eventually(lambda: {cluster.node.json("/?nonce=x")["version"] for _ in range(10)} == {"v1"}, 20, "only v1 answers")
    versions = cluster.node.status().applications["default"].versions
    assert [one.state for one in versions] == [VersionState.REFUSED, VersionState.SERVING]


def test_a_good_version_passes_its_guard(cluster_of: ClusterFactory, show: Show) -> None:
    cluster = cluster_of()
    report, output, returncode = _updated(cluster)
    show("a guarded version that is good", report)
    assert returncode == 0, output
    assert report.lost == 0 and report.refused == 0, report.summary()
    assert {cluster.node.json("/?nonce=x")["version"] for _ in range(10)} == {"v2"}
