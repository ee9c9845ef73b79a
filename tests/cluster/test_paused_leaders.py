"""Leaders that are paused or cut off, and come back: what they were about to do is refused, the next one goes on.

Leases are shortened here; the chaos versions have the promised ones.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.cluster.conftest import ClusterFactory, Show
from tests.cluster.etcd_link import EtcdLink
from tests.cluster.faults import Freeze
from tests.cluster.harness import LocalCluster, Node
from tests.cluster.processes import ProcessId, eventually
from tests.load.process import LoadProcess

RATE = 50.0
ASSIGN = "/serve-rt/default/assign/"
LEADER = "/serve-rt/default/leader"


def _leader(cluster: LocalCluster, *, other_than: ProcessId | None = None, within_s: float = 10.0) -> ProcessId:
    assert cluster.etcd is not None
    etcd = cluster.etcd

    def look() -> ProcessId | None:
        record = etcd.get(LEADER).get(LEADER)
        pid = int(json.loads(record)["pid"]) if record else 0
        return ProcessId.of(pid) if pid and (other_than is None or pid != other_than.pid) else None

    return eventually(look, within_s, "a leader")


def _node_of(cluster: LocalCluster, leader: ProcessId) -> Node:
    return next(node for node in cluster.nodes if any(h.process == leader for h in node.handles("controller")))


# --- paused -------------------------------------------------------------------------------------------------------


def _paused_over_a_drain(
    cluster_of: ClusterFactory, trigger: Path, show: Show, *, lease_s: float, disable: str = ""
) -> list[str]:
    """Three replicas become two. The leader is stopped between its last look at its lease and the write that says
    which one goes, for three leases; the next one says it. What the late write has put into /assign."""
    waits, fail = f"leader_lease_s={lease_s:g}", f"leader.write.assign=stop?{trigger}"
    cluster = cluster_of(2, external_etcd=True, disable=disable, WAITS=waits, FAIL=fail)
    assert cluster.etcd is not None
    etcd = cluster.etcd
    cluster.deploy("echo", num_replicas=3)
    cluster.await_replicas(3)
    old = _leader(cluster)
    other = next(node for node in cluster.nodes if node is not _node_of(cluster, old))
    with LoadProcess(other.http_port, rate_per_s=RATE) as load:
        trigger.touch()
        child = cluster.deploy_later("echo", num_replicas=2, node=other)
        try:
            eventually(old.stopped, 10, "the leader is stopped before its write")
            began = time.monotonic()
            _leader(cluster, other_than=old, within_s=lease_s + 3)
            print(f"a new leader after {time.monotonic() - began:.1f} s")
            kept = {handle.key for handle in cluster.await_replicas(2)}
            eventually(lambda: len(etcd.get(ASSIGN)) == 2, 10, "two assignments")
            time.sleep(max(0.0, 3 * lease_s - (time.monotonic() - began)))
            revision = etcd.revision()
        finally:
            Freeze(old).heal()
            child.communicate(timeout=60)
        written = etcd.written_since(revision, ASSIGN)
        assert {handle.key for handle in cluster.await_replicas(2)} == kept
    show(f"leader paused for {3 * lease_s:g} s", load.report)
    assert load.report.lost == 0 and load.report.refused == 0, load.report.summary()
    if not disable:
        eventually(lambda: _noticed(_node_of(cluster, old).logs(400)), 10, "the old leader notices")
    return written


def _noticed(log: str) -> bool:
    """By the refused write, or by its session, whichever it looks at first."""
    return any(
        words in log for words in ("does not lead any more", "lost its key", "this term is over", "session_lost")
    )


def test_the_late_write_of_a_paused_leader_is_refused(cluster_of: ClusterFactory, tmp_path: Path, show: Show) -> None:
    assert _paused_over_a_drain(cluster_of, tmp_path / "now", show, lease_s=2) == []


@pytest.mark.chaos
def test_negative_control_without_the_fence_it_is_written(
    cluster_of: ClusterFactory, tmp_path: Path, show: Show
) -> None:
    assert _paused_over_a_drain(cluster_of, tmp_path / "now", show, lease_s=2, disable="fence")


@pytest.mark.chaos
def test_the_late_write_after_three_leases_of_ten_seconds(
    cluster_of: ClusterFactory, tmp_path: Path, show: Show
) -> None:
    assert _paused_over_a_drain(cluster_of, tmp_path / "now", show, lease_s=10) == []


# --- flapping -----------------------------------------------------------------------------------------------------


def _flapping(cluster_of: ClusterFactory, show: Show, *, lease_s: float, turns: int) -> None:
    """Whoever leads is cut off from etcd until another one leads, again and again."""
    cluster = cluster_of(0, external_etcd=True, WAITS=f"leader_lease_s={lease_s:g}")
    assert cluster.etcd is not None
    links = [EtcdLink(cluster.etcd.endpoint).start() for _ in range(2)]
    try:
        for link in links:
            cluster.start_node(etcd=link.endpoint)
        cluster.deploy("echo", num_replicas=2)
        before = {handle.key for handle in cluster.await_replicas(2)}
        revision, took = cluster.etcd.revision(), []
        with LoadProcess(cluster.node.http_port, rate_per_s=RATE) as load:
            for _ in range(turns):
                old = _leader(cluster)
                link = links[cluster.nodes.index(_node_of(cluster, old))]
                link.cut()
                began = time.monotonic()
                _leader(cluster, other_than=old, within_s=lease_s + 3)
                took.append(time.monotonic() - began)
                assert link.held_bytes, "the cut held nothing back: it did not bite"
                link.heal()
            cluster.deploy("echo", num_replicas=3, timeout_s=60)
            after = {handle.key for handle in cluster.await_replicas(3)}
        show(f"{turns} leaders cut off in turn", load.report)
        print("a new leader after " + ", ".join(f"{one:.1f}" for one in took) + " s")
        assert before < after, "nothing was restarted, and work goes on from what is stored"
        assert len(cluster.etcd.written_since(revision, LEADER)) == turns, "one leader per term"
        assert load.report.lost == 0 and load.report.refused == 0, load.report.summary()
    finally:
        for link in links:
            link.heal()
        cluster.close()  # before its ways to etcd are gone
        for link in links:
            link.close()


@pytest.mark.chaos
def test_leaders_cut_off_in_turn(cluster_of: ClusterFactory, show: Show) -> None:
    _flapping(cluster_of, show, lease_s=2, turns=2)


@pytest.mark.chaos
def test_two_minutes_of_flapping_leaders(cluster_of: ClusterFactory, show: Show) -> None:
    _flapping(cluster_of, show, lease_s=10, turns=11)
