"""The proxy worker and the launcher: the one holds connections, the other sockets and children."""

from __future__ import annotations

import signal
import time

import pytest

from tests.cluster.conftest import ClusterFactory, Show
from tests.cluster.faults import Kill, inject
from tests.cluster.processes import ProcessId, eventually
from tests.load.process import LoadProcess

RATE = 50.0
SCHEDULING_S = 1.0
"""A busy machine's share of a promised time."""


def _proxy_replaced(cluster_node: object, old: ProcessId) -> bool:
    from tests.cluster.harness import Node

    assert isinstance(cluster_node, Node)
    return any(handle.process != old for handle in cluster_node.handles("proxy"))


def test_killed_proxy_worker_loses_at_most_its_connections(cluster_of: ClusterFactory, show: Show) -> None:
    cluster = cluster_of()
    node = cluster.node
    cluster.deploy("echo", num_replicas=2, arguments={"sleep_ms": 100})
    [worker] = node.handles("proxy")
    with LoadProcess(node.http_port, rate_per_s=RATE) as load:
        time.sleep(1.0)
        inject(Kill(worker.process))
        killed_at = time.monotonic()
        eventually(lambda: _proxy_replaced(node, worker.process), 10, "a new worker")
        eventually(lambda: node.http("/-/healthz")[0] == 200, 10, "it routes")
        gap_s = time.monotonic() - killed_at
        time.sleep(1.0)
    show("proxy kill -9", load.report)
    print(f"a new worker answers after {gap_s:.2f} s")
    in_flight = RATE * 0.1 + 10  # what was being answered, and connections idle just then
    assert 0 < load.report.lost <= in_flight, load.report.summary()
    assert gap_s <= 2.0 + SCHEDULING_S
    assert load.report.refused == 0


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_signalled_proxy_worker_loses_nothing(cluster_of: ClusterFactory, show: Show, signum: int) -> None:
    cluster = cluster_of()
    node = cluster.node
    cluster.deploy("echo", num_replicas=2, arguments={"sleep_ms": 20})
    [worker] = node.handles("proxy")
    with LoadProcess(node.http_port, rate_per_s=RATE) as load:
        time.sleep(1.0)
        worker.process.signal(signum)
        eventually(lambda: _proxy_replaced(node, worker.process), 40, "a new worker")
        eventually(lambda: node.http("/-/healthz")[0] == 200, 10, "it routes")
        time.sleep(0.5)
    show(f"proxy {signal.Signals(signum).name}", load.report)
    assert load.report.lost == 0 and load.report.refused == 0, load.report.summary()


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_launcher_dies_and_is_replaced(cluster_of: ClusterFactory, show: Show, signum: int) -> None:
    cluster = cluster_of()
    node = cluster.node
    cluster.deploy("echo", num_replicas=2)
    before = {handle.key for handle in cluster.await_replicas(2)}
    proxies = {handle.key for handle in node.handles("proxy")}
    old = node.launcher()
    with LoadProcess(node.http_port, rate_per_s=RATE) as load:
        time.sleep(0.5)
        inject(Kill(old, signum, within_s=10))

        def new_launcher() -> bool:
            try:
                return node.launcher() != old
            except OSError:
                return False

        eventually(new_launcher, 10, "a new launcher listens")
        survivors = cluster.await_replicas(2)
        assert {handle.key for handle in survivors} == before, "the orphans live on"
        assert {handle.key for handle in node.handles("proxy")} == proxies
        inject(Kill(survivors[0].process))  # an orphan's death is seen too, by pidfd
        cluster.await_replicas(2)
        [worker] = node.handles("proxy")
        time.sleep(0.5)
    show(f"launcher {signal.Signals(signum).name}", load.report)
    assert load.report.lost == 0 and load.report.refused == 0, load.report.summary()

    inject(Kill(worker.process))  # the listening socket came back from the workers
    eventually(lambda: _proxy_replaced(node, worker.process), 10, "a new worker")
    eventually(lambda: node.http("/?nonce=x")[0] == 200, 10, "on the same port")
