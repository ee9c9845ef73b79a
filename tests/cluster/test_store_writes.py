"""How often the store is written: a little for what changes, not at all for what does not."""

from __future__ import annotations

import json
import subprocess
import time

from tests.cluster.conftest import ClusterFactory
from tests.cluster.etcd_server import binary
from tests.cluster.harness import LocalCluster

IDLE_S = 4.0
PER_REPLICA = 4
"""Its assignment, three words of its agent (starting, listening, ready), and its part of progress and routes."""
PER_DEPLOY = 10


def _revision(cluster: LocalCluster) -> int:
    """Each transaction that writes makes one more; lease keepalives make none."""
    assert cluster.etcd is not None
    command = [binary("etcdctl"), "--endpoints", cluster.etcd.endpoint, "get", "/", "-w", "json"]
    told = subprocess.run(command, capture_output=True, check=True, env={"ETCDCTL_API": "3"}, timeout=10)
    return int(json.loads(told.stdout)["header"]["revision"])


def test_an_idle_cluster_writes_nothing_and_a_deploy_little(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of(1, external_etcd=True)
    cluster.deploy("echo", num_replicas=1)
    cluster.await_replicas(1)
    time.sleep(1.0)  # the handover's linger
    before = _revision(cluster)
    assert cluster.node.http("/")[0] == 200
    time.sleep(IDLE_S)
    assert _revision(cluster) == before, "requests and time are no business of the store"

    replicas = 10
    cluster.deploy("echo", num_replicas=1 + replicas)
    cluster.await_replicas(1 + replicas)
    time.sleep(1.0)
    written = _revision(cluster) - before
    print(f"{written} writes for {replicas} more replicas")
    assert replicas <= written <= PER_REPLICA * replicas + PER_DEPLOY
