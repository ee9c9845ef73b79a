"""A busy replica is not a dead one: 20 s of blocked loop and 20 s of held GIL are left alone."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cluster.conftest import ClusterFactory, Show
from tests.load.process import LoadProcess

BUSY_S = 20


def test_blocked_loop_and_held_gil_are_left_alone(cluster_of: ClusterFactory, show: Show) -> None:
    cluster = cluster_of()
    for app in ("blocked", "holding"):
        cluster.deploy("echo", name=app, route=f"/{app}")
    cluster.deploy("echo", num_replicas=2)
    before = {app: cluster.await_replicas(1, app=app)[0].key for app in ("blocked", "holding")}

    with LoadProcess(cluster.node.http_port, rate_per_s=20) as load, ThreadPoolExecutor(2) as pool:
        started = time.monotonic()
        paths = (f"/blocked/block?s={BUSY_S}", f"/holding/gil?s={BUSY_S}")
        answers = list(pool.map(lambda path: cluster.node.http(path, timeout_s=120), paths))
        took_s = time.monotonic() - started
    show("busy replicas beside", load.report)

    assert took_s > 15, "the fault must bite beyond the killing age of a hung replica"
    assert [status for status, _ in answers] == [200, 200], answers
    after = {app: cluster.await_replicas(1, app=app)[0].key for app in ("blocked", "holding")}
    assert after == before, "nothing was restarted"
    assert load.report.lost == 0, load.report.summary()


@pytest.mark.chaos
def test_negative_control_without_the_busy_check_it_is_killed(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of(disable="busy-check")
    cluster.deploy("echo", num_replicas=1)
    [before] = cluster.await_replicas(1)
    status, _ = cluster.node.http(f"/gil?s={BUSY_S + 5}", method="POST", body=b"", timeout_s=120)
    assert status == 502, "the protection makes no difference: the test above cannot fail"
    assert not before.process.alive()
