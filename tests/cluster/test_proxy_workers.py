"""Several proxy workers on one port: they share the work, and one that dies takes nobody with it."""

from __future__ import annotations

import json
import time

from tests.cluster.conftest import ClusterFactory, Show
from tests.cluster.faults import Kill, inject
from tests.cluster.harness import Node
from tests.cluster.processes import eventually
from tests.cluster.test_proxy_restarts import newest
from tests.load.process import LoadProcess

WORKERS = 3


def forwarded(node: Node) -> dict[int, int]:
    """By worker, as they say themselves: each new connection is one of them's."""
    counts: dict[int, int] = {}

    def all_asked() -> bool:
        said = json.loads(node.http("/-/counters")[1])
        counts[said["pid"]] = said["forwarded"]
        return len(counts) >= WORKERS

    eventually(all_asked, 20, f"{WORKERS} workers answer")
    return counts


def test_workers_share_the_load_and_are_replaced_one_by_one(cluster_of: ClusterFactory, show: Show) -> None:
    cluster = cluster_of(1, "--proxy-workers", str(WORKERS))
    node = cluster.node
    cluster.deploy("echo", num_replicas=2)
    workers = newest(node)
    assert len(workers) == WORKERS
    with LoadProcess(node.http_port, rate_per_s=150, shooter="fresh") as load:
        time.sleep(2.0)
    assert load.report.lost == 0
    counts = forwarded(node)
    assert set(counts) == {worker.pid for worker in workers.values()}
    assert min(counts.values()) > 0.1 * sum(counts.values()), counts

    dead = workers["proxy-1"]
    with LoadProcess(node.http_port, rate_per_s=150, shooter="fresh") as load:
        time.sleep(0.5)
        inject(Kill(dead))
        eventually(lambda: newest(node).get("proxy-1", dead) != dead, 10, "its successor")
        time.sleep(1.5)
    show("one of three workers killed", load.report)
    assert load.report.lost <= 5, "only what was in flight on it: about one request"
    after = newest(node)
    assert {name: after[name] for name in ("proxy-0", "proxy-2")} == {n: workers[n] for n in ("proxy-0", "proxy-2")}
    assert forwarded(node)[after["proxy-1"].pid] > 0, "the slot's connections are its successor's"
