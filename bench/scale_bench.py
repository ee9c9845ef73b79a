"""How long it takes to go from 1 to 32 replicas of an application that imports torch, on one node."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass

from bench.contenders import ROOT
from bench.start_bench import AssignmentWatch
from tests.cluster.harness import LocalCluster
from tests.cluster.processes import eventually

REPLICAS = 32
LIMIT_S = 240.0


@dataclass(frozen=True, slots=True)
class Scaled:
    half_s: float
    all_s: float
    """From the write of the first new assignment until so many replicas are ready."""


def scale(disable: str = "") -> Scaled:
    cluster = LocalCluster(external_etcd=True, disable=disable)
    assert cluster.etcd is not None
    watch = AssignmentWatch(cluster.etcd)
    try:
        node = cluster.start_node()
        _deploy(cluster, 1)
        if not disable:
            time.sleep(0.5)  # the launcher is "warm" still, before it begins to learn
            eventually(lambda: node.nodes().nodes[0].launcher == "warm", 120, "the launcher has learned")
        [first] = cluster.await_replicas(1)
        deploying = _deploying(cluster, REPLICAS)
        ready_at: list[float] = []
        give_up_at = time.monotonic() + LIMIT_S
        while len(ready_at) < REPLICAS - 1 and time.monotonic() < give_up_at:
            states = Counter(replica.state for one in node.nodes().nodes for replica in one.replicas)
            ready_at += [time.monotonic()] * (states["RUNNING"] - 1 - len(ready_at))
            time.sleep(0.02)
        output, _ = deploying.communicate(timeout=60)
        assert deploying.returncode == 0 and len(ready_at) == REPLICAS - 1, output
        began = min(at for name, at in watch.written.items() if name != first.name)
        return Scaled(ready_at[REPLICAS // 2] - began, ready_at[-1] - began)
    finally:
        watch.close()
        cluster.close()


def _deploying(cluster: LocalCluster, replicas: int) -> subprocess.Popen[str]:
    script = (
        "import serve_rt as serve, bench.apps as apps\n"
        f"serve.run(apps.Torch.options(num_replicas={replicas}).bind(), name='default', route_prefix='/')\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", script], env=cluster.driver(), cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def _deploy(cluster: LocalCluster, replicas: int) -> None:
    output, _ = (deploying := _deploying(cluster, replicas)).communicate(timeout=120)
    assert deploying.returncode == 0, output
