"""Applications deleted, deployed again at once, renamed, or deployed by a file: what is gone answers nobody."""

from __future__ import annotations

import itertools
import json
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tests.cluster.conftest import ClusterFactory
from tests.cluster.etcd_server import EtcdServer
from tests.cluster.harness import LocalCluster
from tests.cluster.processes import eventually

ROUNDS = 4


def _said(cluster: LocalCluster, path: str) -> tuple[int, str]:
    status, body = cluster.node.http(f"{path}?nonce=x")
    return status, cluster.node.json(f"{path}?nonce=x")["version"] if status == 200 else body.decode()


def test_a_deleted_version_never_answers_for_the_one_deployed_after_it(cluster_of: ClusterFactory) -> None:
    """Deployed again before the leader could take anything down; its successor takes a second to start."""
    cluster = cluster_of()
    cluster.deploy("echo", arguments={"version": "v0"})
    for round_ in range(1, ROUNDS):
        child = cluster.deploy_later("delete_and_echo", arguments={"version": f"v{round_}", "start_s": 0.7})
        said: list[str] = []
        at = [time.monotonic()]
        while child.poll() is None:
            status, body = cluster.node.http("/?nonce=x")
            said.append(json.loads(body)["version"] if status == 200 else str(status))
            at.append(time.monotonic())
        output, _ = child.communicate(timeout=60)
        assert child.returncode == 0, output
        gone_at = next(index for index, one in enumerate(said) if one != f"v{round_ - 1}")
        assert f"v{round_ - 1}" not in said[gone_at:], "once it did not answer it never answers again"
        assert _said(cluster, "/")[1] == f"v{round_}"
        waited_s = max(later - earlier for earlier, later in itertools.pairwise(at))
        assert waited_s > 0.3, "nobody answered while the new one started"
    eventually(lambda: len(cluster.node.replicas()) == 1, 20, "nothing of the deleted ones is left")


def test_a_renamed_route_moves_and_restarts_nothing(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of()
    cluster.deploy("echo", route="/old", num_replicas=2)
    before = {handle.key for handle in cluster.await_replicas(2)}
    for round_ in range(ROUNDS):
        old, new = ("/old", "/new") if round_ % 2 == 0 else ("/new", "/old")
        light = {"max_ongoing_requests": 5 + round_, "graceful_shutdown_timeout_s": 3.0 + round_}
        cluster.deploy("echo", route=new, num_replicas=2, **light)
        assert _said(cluster, new)[0] == 200 and _said(cluster, old)[0] == 404
    assert {handle.key for handle in cluster.await_replicas(2)} == before, "no process was restarted"


CONFIG = """
applications:
- name: one
  route_prefix: /one
  import_path: apps:ONE
  deployments:
  - name: Echo
    num_replicas: {replicas}
    ray_actor_options: {{num_cpus: 0.1}}
- name: two
  route_prefix: /two
  import_path: apps:ONE
"""


def test_a_file_is_whole_whenever_its_leader_dies(cluster_of: ClusterFactory, tmp_path: Path) -> None:
    """Killed just before its write and just after it, with its answer untold: all applications of the file or none,
    and the next leader ends it under the same deploy id."""
    before, after = tmp_path / "before", tmp_path / "after"
    fail = f"leader.write.apps=kill?{before},leader.wrote.apps=kill?{after}"
    cluster = cluster_of(1, external_etcd=True, WAITS="leader_lease_s=2", FAIL=fail)
    assert cluster.etcd is not None
    etcd = cluster.etcd
    Path(cluster.folder, "user", "app.yaml").write_text(CONFIG.format(replicas=1))
    for trigger, written in ((before, set()), (after, {"one", "two"})):
        trigger.touch()
        with ThreadPoolExecutor(1) as pool:
            deploying = pool.submit(cluster.cli, "deploy", "app.yaml")
            eventually(partial(_is_gone, trigger), 20, "the leader is killed")
            half_way = _deploy_ids(etcd)
            assert half_way.keys() == written
            done = deploying.result(60)
        assert done.returncode == 0, done.stdout + done.stderr
        assert half_way.items() <= _deploy_ids(etcd).items(), "what was written is not written again"
        cluster.await_replicas(1, app="two")
        assert cluster.cli("delete", "one").returncode == cluster.cli("delete", "two").returncode == 0
        eventually(lambda: not _deploy_ids(etcd), 20, "all is deleted")


def _is_gone(path: Path) -> bool:
    return not path.exists()


def _deploy_ids(etcd: EtcdServer) -> dict[str, str]:
    """By application."""
    records = etcd.get("/serve-rt/default/apps/")
    return {key.rpartition("/")[2]: json.loads(text)["deploy_id"] for key, text in records.items()}


def test_a_file_is_deployed_as_a_whole_or_not_at_all(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of()
    file = Path(cluster.folder, "user", "app.yaml")

    def deploy(text: str) -> tuple[int, str]:
        file.write_text(text)
        done = cluster.cli("deploy", "app.yaml")
        return done.returncode, done.stdout + done.stderr

    cluster.deploy("small", name="by_hand", route="/hand")
    assert deploy(CONFIG.format(replicas=2))[0] == 0
    cluster.await_replicas(2, app="one")
    cluster.await_replicas(1, app="two")
    before = {handle.key for handle in cluster.node.replicas()}

    for bad, words in (
        (CONFIG.format(replicas=-3), "app.yaml:8: applications[0].deployments[0].num_replicas"),
        (CONFIG.format(replicas=9) + "- {name: three, import_path: 'apps:NONE'}", "app.yaml:13"),
        (CONFIG.format(replicas=9).replace("/two", "/hand"), 'used by application "by_hand"'),
        ("applications: {", "app.yaml:1: this is not YAML"),
    ):
        returncode, told = deploy(bad)
        assert returncode == 1 and words in told, told
    assert {handle.key for handle in cluster.node.replicas()} == before
    shown = cluster.cli("config").stdout
    assert "num_replicas: 2" in shown and "---" in shown and "by_hand" not in shown

    assert deploy(CONFIG.format(replicas=1).partition("- name: two")[0])[0] == 0
    eventually(lambda: set(cluster.node.status().applications) == {"one", "by_hand"}, 20, "two is not in the file")
    cluster.await_replicas(1, app="one")
