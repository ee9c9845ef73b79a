"""Proxy workers replaced hot, under load of every shape: nobody notices."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import grpc.aio
import pytest

from serve_rt.credentials import ClusterToken, control_channel
from serve_rt.pb import control_pb2 as pb
from serve_rt.wire.services import Stub
from tests.cluster.conftest import ClusterFactory, Show
from tests.cluster.faults import Freeze, Kill, inject
from tests.cluster.harness import LocalCluster, Node
from tests.cluster.processes import ProcessId, eventually
from tests.load.outcomes import Report
from tests.load.process import LoadProcess

SHAPES = (("echo", "/", 60.0), ("fresh", "/", 40.0), ("slow_stream", "/stream", 4.0))
"""Keep-alive connections, a new connection for each request, streams longer than a restart."""


@contextlib.contextmanager
def load_of_all_shapes(node: Node) -> Iterator[list[LoadProcess]]:
    loads = [
        LoadProcess(node.http_port, rate_per_s=rate, shooter=shooter, path=path, name=shooter)
        for shooter, path, rate in SHAPES
    ]
    with contextlib.ExitStack() as stack:
        for load in loads:
            stack.enter_context(load)
        time.sleep(0.5)
        yield loads
        time.sleep(0.5)


def restart_proxies(node: Node, cluster: LocalCluster) -> str:
    command = [sys.executable, "-m", "serve_rt.agents.main", "restart-proxies", "--state-dir", str(node.state.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=cluster.driver(node))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def newest(node: Node) -> dict[str, ProcessId]:
    """The accepting worker of each slot; lame ducks left out."""
    workers: dict[str, tuple[int, ProcessId]] = {}
    for handle in node.handles("proxy"):
        if handle.incarnation >= workers.get(handle.name, (-1, None))[0]:
            workers[handle.name] = (handle.incarnation, handle.process)
    return {name: process for name, (_, process) in workers.items()}


def descriptors(process: ProcessId) -> int:
    return len(os.listdir(f"/proc/{process.pid}/fd"))


def hot_restarts(cluster: LocalCluster, times: int) -> Report:
    node = cluster.node
    restart_proxies(node, cluster)  # what is loaded and opened once is loaded and opened now
    eventually(lambda: len(node.handles("proxy")) == len(newest(node)), 10, "no lame duck")
    before, workers = descriptors(node.launcher()), newest(node)
    with load_of_all_shapes(node) as loads:
        for _ in range(times):
            said = restart_proxies(node, cluster)
            after = newest(node)
            assert f"replaced {len(workers)} proxy worker" in said
            assert set(after) == set(workers) and not set(after.values()) & set(workers.values())
            workers = after
    ducks = [handle.process for handle in node.handles("proxy") if handle.process not in workers.values()]
    eventually(lambda: not any(duck.alive() for duck in ducks), 40, "the lame ducks are gone")
    eventually(lambda: descriptors(node.launcher()) == before, 10, f"the launcher has {before} descriptors again")
    return Report.merged(load.report for load in loads)


@pytest.mark.parametrize("workers", [1, pytest.param(3, marks=pytest.mark.chaos)])
def test_workers_are_replaced_again_and_again_and_nobody_notices(
    cluster_of: ClusterFactory, show: Show, workers: int
) -> None:
    cluster = cluster_of(1, "--proxy-workers", str(workers))
    cluster.deploy("echo", num_replicas=2, arguments={"sleep_ms": 20})
    report = hot_restarts(cluster, 4 if workers == 1 else 2)
    show(f"hot restarts of {workers} workers", report)
    assert report.lost == 0 and report.refused == 0, report.summary()


@pytest.mark.chaos
@pytest.mark.parametrize("workers", [1, 4])
def test_twenty_hot_restarts(cluster_of: ClusterFactory, show: Show, workers: int) -> None:
    cluster = cluster_of(1, "--proxy-workers", str(workers))
    cluster.deploy("echo", num_replicas=2, arguments={"sleep_ms": 20})
    report = hot_restarts(cluster, 20)
    show(f"20 hot restarts of {workers} workers", report)
    assert report.lost == 0 and report.refused == 0, report.summary()


@pytest.mark.chaos
def test_control_without_lame_ducks_requests_are_lost(cluster_of: ClusterFactory, show: Show) -> None:
    cluster = cluster_of(disable="lame-duck")
    cluster.deploy("echo", num_replicas=2, arguments={"sleep_ms": 20})
    report = hot_restarts(cluster, 2)
    show("hot restarts without lame ducks", report)
    assert report.lost > 0


def test_an_agent_of_a_new_version_replaces_workers_and_launcher(cluster_of: ClusterFactory, show: Show) -> None:
    cluster = cluster_of()
    node = cluster.node
    cluster.deploy("echo", num_replicas=2, arguments={"sleep_ms": 20})
    replicas = {handle.key for handle in cluster.await_replicas(2)}
    workers, launcher = newest(node), node.launcher()
    [controller] = node.handles("controller")
    with load_of_all_shapes(node) as loads:
        inject(Kill(node.agent))
        node.start()
        assert (newest(node), node.launcher()) == (workers, launcher), "the same version is adopted"
        install_another_version(cluster)
        inject(Kill(node.agent))
        node.start()
        assert newest(node) != workers and node.launcher() != launcher
        assert controller.process not in [handle.process for handle in node.handles("controller")]
    assert {handle.key for handle in cluster.await_replicas(2)} == replicas
    report = Report.merged(load.report for load in loads)
    show("an agent of a new version", report)
    assert report.lost == 0 and report.refused == 0, report.summary()


def install_another_version(cluster: LocalCluster) -> None:
    folder = cluster.site_packages / "serve_rt-99.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: serve-rt\nVersion: 99.0\n")


def test_a_successor_that_cannot_start_leaves_the_old_worker_alone(cluster_of: ClusterFactory, show: Show) -> None:
    cluster = cluster_of()
    node = cluster.node
    cluster.deploy("echo", num_replicas=1)
    workers = newest(node)
    token_file = node.state.token
    aside = token_file.with_suffix(".aside")
    with LoadProcess(node.http_port, rate_per_s=50) as load:
        token = ClusterToken.read(token_file)
        token_file.rename(aside)  # the first thing a worker reads
        try:
            with pytest.raises(grpc.aio.AioRpcError, match="did not come up"):
                asyncio.run(ask_to_restart(node, token))
        finally:
            aside.rename(token_file)
        assert newest(node) == workers
        assert "replaced 1 proxy worker" in restart_proxies(node, cluster)
    show("a successor that cannot start", load.report)
    assert load.report.lost == 0 and load.report.refused == 0, load.report.summary()
    assert newest(node) != workers


async def ask_to_restart(node: Node, token: ClusterToken) -> None:
    async with control_channel(node.address, token) as channel:
        stub = Stub(channel, pb.DESCRIPTOR.services_by_name["Agent"])
        await stub.RestartProxies(pb.RestartProxiesRequest(), timeout=30)


def test_what_waits_in_a_killed_workers_queue_is_answered_by_the_next(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of()
    node = cluster.node
    cluster.deploy("echo", num_replicas=1)
    [worker] = node.handles("proxy")
    inject(Freeze(worker.process))
    waiting = []
    for number in range(20):
        connection = socket.create_connection(("127.0.0.1", node.http_port), timeout=10)
        connection.sendall(b"GET /?nonce=n%d HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n" % number)
        waiting.append(connection)
    inject(Kill(worker.process))
    for number, connection in enumerate(waiting):
        with connection, connection.makefile("rb") as answer:
            said = answer.read()
            assert said.startswith(b"HTTP/1.1 200") and b'"n%d"' % number in said
