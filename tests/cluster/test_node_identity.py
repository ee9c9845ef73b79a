"""Who may be a node: not the copy of another one; itself again after a reboot, when its old lease has run out."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest

from tests.cluster.conftest import ClusterFactory, Show
from tests.cluster.etcd_server import EtcdServer
from tests.cluster.faults import Kill, Together, inject
from tests.cluster.harness import LocalCluster, Node
from tests.cluster.processes import processes_of
from tests.load.process import LoadProcess

RATE = 50.0
NODES = "/serve-rt/default/nodes/"


def _keys(cluster: LocalCluster) -> set[object]:
    return {handle.key for node in cluster.nodes for handle in node.replicas()}


def _copied(cluster_of: ClusterFactory, show: Show, *, disable: str = "") -> tuple[int, str, bool]:
    """An agent is started on the copy of a living state dir. Its exit code, what it said, and whether it has touched
    what runs: same node id, same token, handle files that name the processes of the original."""
    cluster = cluster_of(1, external_etcd=True)
    cluster.deploy("echo", num_replicas=2)
    cluster.await_replicas(2)
    original = cluster.node
    before, agent = {handle.key for handle in original.handles("replica")}, original.agent
    copy = cluster.new_node()
    shutil.rmtree(copy.state.path)
    shutil.copytree(original.state.path, copy.state.path, ignore=_sockets)
    with LoadProcess(original.http_port, rate_per_s=RATE) as load:
        time.sleep(0.3)
        began = time.monotonic()
        copy.launch(disable=disable)
        returncode = copy.wait_agent(20)
        took_s = time.monotonic() - began
        copy.close_ready()
        touched = bool(list(processes_of(copy.state.path)))
        time.sleep(0.5)  # what it might have done to the original is done by now
    show(f"a copied state dir, refused after {took_s:.1f} s", load.report)
    assert {handle.key for handle in original.handles("replica")} == before and agent.alive()
    assert load.report.lost == 0 and load.report.refused == 0, load.report.summary()
    said = (copy.state.path / "agent.log").read_text()
    for process, _ in processes_of(copy.state.path):
        process.kill_if_alive()
    shutil.rmtree(copy.state.path)  # its handles name the original's processes: `close` would count them as left over
    cluster.nodes.remove(copy)
    return returncode, said, touched


def test_a_copied_state_dir_is_refused_and_its_original_undisturbed(cluster_of: ClusterFactory, show: Show) -> None:
    returncode, said, touched = _copied(cluster_of, show)
    assert returncode != 0 and not touched
    assert "is a copy of one whose processes run" in said and "--state-dir" in said and "Traceback" not in said


@pytest.mark.chaos
def test_negative_control_an_agent_on_a_copy_adopts_what_is_anothers(cluster_of: ClusterFactory, show: Show) -> None:
    """It is refused in the end, by the node id; until then it has taken over replicas and the HTTP socket."""
    returncode, said, touched = _copied(cluster_of, show, disable="own-dir")
    assert returncode != 0 and "is taken by" in said and "adopted" in said and touched


def _sockets(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if not (Path(folder) / name).is_file() and not (Path(folder) / name).is_dir()]


def _of(node: Node) -> set[object]:
    return {handle.key for handle in node.replicas()}


def test_a_rebooted_node_waits_for_its_old_lease_and_starts_each_replica_once(
    cluster_of: ClusterFactory, show: Show
) -> None:
    """All its processes are gone, its lease is not. The boot that is remembered is another one than this."""
    cluster = cluster_of(2, external_etcd=True, WAITS="node_lease_s=5")
    assert cluster.etcd is not None
    cluster.deploy("echo", num_replicas=4, arguments={"sleep_ms": 5})
    cluster.await_replicas(4)
    stays, reboots = sorted(cluster.nodes, key=lambda node: not node.handles("controller"))
    before = _of(reboots)
    assert len(before) == 2
    with LoadProcess(stays.http_port, rate_per_s=RATE) as load:
        time.sleep(0.5)
        _power_off(reboots)
        old_lease = _as_of_another_boot(cluster.etcd, reboots)
        began = time.monotonic()
        reboots.start()
        took_s = time.monotonic() - began
        cluster.await_replicas(4)
    show("a node reboots", load.report)
    print(f"registered again after {took_s:.1f} s")
    after = _of(reboots)
    assert old_lease, "the old lease had run out before the node was back"
    assert {key[0] for key in after} == {key[0] for key in before}, "the same replicas, once each"  # type: ignore[index]
    assert after.isdisjoint(before) and len(_keys(cluster)) == 4
    assert load.report.lost == 0 and load.report.refused == 0, load.report.summary()


def _power_off(node: Node) -> None:
    """Everything dies at once; unlike with a real one, its peers are told by the kernel."""
    agent = node.agent
    others = [process for process, _ in processes_of(node.state.path) if process != agent]
    inject(Together([Kill(agent), *map(Kill, others)]))
    node.wait_agent()


def _as_of_another_boot(etcd: EtcdServer, node: Node) -> bool:
    """In the handle files and in the registration; whether that still stands."""
    for path in node.state.handles.glob("*.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "boot_id": "the boot before"}))
    key = f"{NODES}{node.ready['node_id']}"
    record = json.loads(etcd.get(key)[key])
    return etcd.rewrite(key, json.dumps({**record, "boot_id": "the boot before"}))
