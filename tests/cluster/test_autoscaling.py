"""The number of replicas follows the load, down to zero and back, and no request is lost on the way."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest

from tests.cluster.conftest import ClusterFactory, Show
from tests.cluster.harness import LocalCluster
from tests.cluster.processes import eventually
from tests.load.outcomes import Report
from tests.load.process import LoadProcess

OPTIONS = {
    "min_replicas": 0,
    "max_replicas": 3,
    "target_ongoing_requests": 1,
    "look_back_period_s": 2,
    "upscale_delay_s": 0.5,
    "downscale_delay_s": 1,
    "downscale_to_zero_delay_s": 1,
}
WORK_MS = 200.0
LIGHT, HEAVY = 2.0, 20.0
"""Requests per second: 0.4 and 4 of them run at a time."""


def _running(cluster: LocalCluster) -> int:
    overview = cluster.node.status().applications["default"].deployments["Echo"]
    return overview.replica_states.get("RUNNING", 0) if set(overview.replica_states) <= {"RUNNING"} else -1


def _await_running(cluster: LocalCluster, count: int) -> float:
    started = time.monotonic()
    eventually(lambda: _running(cluster) == count, 15, f"{count} replicas run and nothing else")
    return time.monotonic() - started


def test_one_three_none_one(cluster_of: ClusterFactory, show: Show) -> None:
    cluster = cluster_of()
    cluster.deploy("echo", autoscaling_config=OPTIONS, arguments={"sleep_ms": WORK_MS})
    port = cluster.node.http_port
    with LoadProcess(port, rate_per_s=LIGHT, name="light") as light:
        with LoadProcess(port, rate_per_s=HEAVY, name="heavy") as heavy:
            up_s = _await_running(cluster, 3)
        down_s = _await_running(cluster, 1)
    zero_s = _await_running(cluster, 0)
    started = time.monotonic()
    status, _ = cluster.node.http("/?nonce=first")
    first_s = time.monotonic() - started
    _await_running(cluster, 1)
    _await_running(cluster, 0)
    with LoadProcess(port, rate_per_s=HEAVY, name="again") as again:
        _await_running(cluster, 3)

    for load in (light, heavy, again):
        show(f"autoscaling: {up_s:.1f} s up, {down_s:.1f} s down, {zero_s:.1f} s to none", load.report)
        assert load.report.lost == 0 and load.report.refused == 0 and load.report.ok, load.report.summary()
    print(f"the first request at none was answered after {first_s:.2f} s, {WORK_MS:g} ms of it work")
    assert status == 200 and first_s < 5.0


def test_a_light_load_keeps_the_last_replica(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of()
    cluster.deploy("echo", autoscaling_config=OPTIONS, arguments={"sleep_ms": WORK_MS})
    before = {handle.key for handle in cluster.await_replicas(1)}
    with LoadProcess(cluster.node.http_port, rate_per_s=LIGHT) as load:
        time.sleep(4)  # a look-back and several delays
        assert {handle.key for handle in cluster.await_replicas(1)} == before
    assert load.report.lost == 0 and load.report.refused == 0, load.report.summary()


def test_another_leader_goes_on_from_the_target(cluster_of: ClusterFactory, show: Show) -> None:
    """Its readings begin anew: that must not look like no demand, and a request at none is heard by whoever leads."""
    cluster = cluster_of()
    cluster.deploy("echo", autoscaling_config=OPTIONS, arguments={"sleep_ms": WORK_MS})
    with LoadProcess(cluster.node.http_port, rate_per_s=HEAVY) as load:
        _await_running(cluster, 3)
        before = {handle.key for handle in cluster.await_replicas(3)}
        _change_leader(cluster)
        time.sleep(
            OPTIONS["look_back_period_s"] + OPTIONS["downscale_delay_s"] + 1
        )  # long enough to fall, if it were to
        assert {handle.key for handle in cluster.await_replicas(3)} == before
    show("autoscaling: another leader at three replicas", load.report)
    assert load.report.lost == 0 and load.report.refused == 0, load.report.summary()
    _await_running(cluster, 0)
    _change_leader(cluster)
    assert cluster.node.http("/?nonce=first")[0] == 200


def _change_leader(cluster: LocalCluster) -> None:
    """SIGTERM: it resigns, and the node starts the next one."""
    (old,) = cluster.node.handles("controller")
    old.process.signal(signal.SIGTERM)
    eventually(lambda: cluster.node.handles("controller") not in ([], [old]), 10, "another controller")


def test_a_policy_of_the_users_own_follows_what_replicas_report(cluster_of: ClusterFactory) -> None:
    """Its code is in the user's folder only: it comes with the application, to a process beside the leader."""
    cluster = cluster_of()
    cluster.deploy("queue")
    cluster.await_replicas(1)
    cluster.node.http("/?depth=30")
    cluster.await_replicas(3)
    told = cluster.cli("autoscale", "--dry-run", "default").stdout
    assert "policy:   scaling_apps:ByDepth" in told and "depth=30" in told and "would stay at 3" in told, told

    for _ in range(40):  # until each of the three was told
        cluster.node.http("/?depth=-1")
    eventually(lambda: "a depth below nothing" in cluster.cli("autoscale", "--dry-run").stdout, 20, "the error is told")
    cluster.await_replicas(3)
    _change_leader(cluster)
    for _ in range(40):
        cluster.node.http("/?depth=10")
    cluster.await_replicas(1, timeout_s=30)


FILE = """
applications:
- name: helped
  route_prefix: /
  import_path: scaling_apps:HELPED
  autoscaling_policy: {policy_function: scaling_apps:twice_as_many_helpers, policy_kwargs: {each: 10}}
"""


def test_a_policy_of_a_whole_application_decides_for_all_of_it(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of()
    Path(cluster.folder, "user", "app.yaml").write_text(FILE)
    deployed = cluster.cli("deploy", "app.yaml")
    assert deployed.returncode == 0, deployed.stdout + deployed.stderr

    def counts() -> tuple[int, int]:
        names = [handle.name.split("#")[1] for handle in cluster.ready_replicas("helped")]
        return names.count("HelpedQueue"), names.count("Helper")

    eventually(lambda: counts() == (1, 2), 20, "one queue and two helpers")
    assert cluster.node.http("/?depth=20") == (200, b"helped")
    eventually(lambda: counts() == (2, 4), 20, "two and four")
    told = cluster.cli("autoscale", "--dry-run", "helped").stdout
    assert "twice_as_many_helpers" in told and "would stay at 4" in told, told
    for _ in range(30):  # until both were told
        cluster.node.http("/?depth=10")
    eventually(lambda: counts() == (1, 2), 20, "and back")


def _scaled_down_again_and_again(cluster: LocalCluster, times: int) -> Report:
    cluster.deploy("echo", num_replicas=6, arguments={"sleep_ms": 100})
    with LoadProcess(cluster.node.http_port, rate_per_s=25) as load:
        for _ in range(times):
            cluster.await_replicas(6)
            cluster.deploy("echo", num_replicas=1, arguments={"sleep_ms": 100})
            eventually(lambda: len(cluster.node.replicas()) == 1, 20, "five are gone")
            cluster.deploy("echo", num_replicas=6, arguments={"sleep_ms": 100})
    return load.report


def test_six_to_one_under_load_loses_nothing(cluster_of: ClusterFactory, show: Show) -> None:
    report = _scaled_down_again_and_again(cluster_of(), 1)
    show("scale-down 6 to 1", report)
    assert report.lost == 0 and report.refused == 0 and report.ok, report.summary()


@pytest.mark.chaos
def test_six_to_one_ten_times_loses_nothing(cluster_of: ClusterFactory, show: Show) -> None:
    report = _scaled_down_again_and_again(cluster_of(), 10)
    show("scale-down 6 to 1, ten times", report)
    assert report.lost == 0 and report.refused == 0 and report.ok, report.summary()


@pytest.mark.chaos
def test_a_square_wave_does_not_make_it_swing(cluster_of: ClusterFactory, show: Show) -> None:
    """Period 20 s, with delays short enough to follow it. It falls once and learns; then it stays up."""
    cluster = cluster_of()
    cluster.deploy("echo", autoscaling_config=OPTIONS | {"min_replicas": 1}, arguments={"sleep_ms": WORK_MS})
    port, seen = cluster.node.http_port, []
    with LoadProcess(port, rate_per_s=LIGHT, name="light") as light:
        for _ in range(6):
            began = time.monotonic()
            with LoadProcess(port, rate_per_s=HEAVY, name="heavy") as heavy:
                time.sleep(9.0)
            seen.append(_running(cluster))
            time.sleep(max(0.0, 20.0 - (time.monotonic() - began)))
            seen.append(_running(cluster))
            assert heavy.report.lost == 0 and heavy.report.refused == 0, heavy.report.summary()
    show(f"a square wave: {seen} replicas", light.report)
    turns = sum(one != other for one, other in pairwise(seen[3:]))
    assert seen[0] == 3 and turns <= 1, f"after learning it must not follow the wave: {seen}"
    assert light.report.lost == 0 and light.report.refused == 0, light.report.summary()


def test_a_hundred_first_requests_start_one_replica(cluster_of: ClusterFactory) -> None:
    """All are held, all are answered; the others would follow after the delay, which is long here."""
    cluster = cluster_of()
    knobs = OPTIONS | {"max_replicas": 10, "upscale_delay_s": 60}
    cluster.deploy("echo", autoscaling_config=knobs, arguments={"sleep_ms": 5})
    _await_running(cluster, 0)
    with ThreadPoolExecutor(100) as clients:
        answers = list(clients.map(lambda n: cluster.node.http(f"/?nonce={n}")[0], range(100)))
    assert answers == [200] * 100
    started = cluster.node.logs(10_000).count("kind=replica")
    assert started == 2, "the first one after the deploy, and one for all of the hundred"
