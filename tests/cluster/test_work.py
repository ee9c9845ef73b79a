"""Tasks and actors on several nodes, with what they run on taken away. The everyday ones are in tests/work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.cluster.conftest import ClusterFactory
from tests.cluster.processes import eventually


@pytest.mark.chaos
def test_nodes_are_drained_and_workers_killed_and_every_task_is_done(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of(2)
    command = [sys.executable, "-m", "tests.cluster.work_program"]
    env = {**os.environ, **cluster.driver(cluster.nodes[0])}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as driver:
        assert driver.stdin is not None and driver.stdout is not None
        try:
            said = driver.stdout.readline().split()
            assert said[:3] == ["actors", "1", "1"], said
            for name in set(said[3:]):
                drained = cluster.cli("drain", name, "--timeout-s", "40")
                assert drained.returncode == 0, drained.stderr
                cluster.cli("uncordon", name)
            driver.stdin.write("\n")
            driver.stdin.flush()
            assert driver.stdout.readline().split() == ["after", "1", "ended"], "one was begun anew, one may not be"
            assert driver.stdout.readline() == "running\n"
            handles = [handle for node in cluster.nodes for handle in node.handles("replica")]
            workers = [handle.process for handle in handles if handle.name.startswith("tasks:")]
            assert workers
            for worker in workers:
                worker.signal(signal.SIGKILL)
            assert driver.stdout.readline() == "tasks True\n"
        finally:
            driver.stdin.close()
            driver.wait(30)
    eventually(lambda: not [a for a in cluster.node.status().applications if a.startswith("actor:")], 20, "with it")
