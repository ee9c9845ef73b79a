"""An agent that never comes back: replicas do not serve for ever unwatched, and nothing is lost when it does return."""

from __future__ import annotations

import time

from tests.cluster.conftest import ClusterFactory
from tests.cluster.faults import Kill, inject
from tests.cluster.processes import eventually


def test_replicas_without_an_agent_drain_and_end_and_come_back_with_one(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of(1, "--orphan-timeout-s", "2")
    node = cluster.node
    cluster.deploy("echo")
    [replica] = cluster.await_replicas(1)
    time.sleep(3)  # time itself is what is tried: an agent that watches keeps the replica past the timeout
    assert replica.process.alive()

    inject(Kill(node.agent))
    eventually(lambda: not replica.process.alive(), 15, "the orphan ends")
    [log_path] = (node.state.logs / "default").glob("*.log")
    log = log_path.read_text()
    assert "no agent for" in log and "ended with 0" in log, "it drained"
    assert node.launcher().alive(), "the launcher waits for the next agent, with the sockets"

    node.start()
    [again] = cluster.await_replicas(1)
    assert again.name == replica.name and node.http("/")[0] == 200
