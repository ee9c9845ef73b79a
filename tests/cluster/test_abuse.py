"""Hostile clients and bodies against real processes, while good clients ask on."""

from __future__ import annotations

import asyncio
import gzip
import resource
import time
from pathlib import Path

import pytest

from tests.cluster.conftest import ClusterFactory, Show
from tests.cluster.harness import Node
from tests.cluster.processes import ProcessId, eventually, pss_bytes
from tests.cluster.test_proxy_restarts import newest
from tests.load.process import LoadProcess

DEEP = 100_000
BODIES: dict[str, tuple[str, bytes, tuple[int, ...]]] = {
    "arrays within arrays": ("/json", b"[" * DEEP + b"]" * DEEP, (400, 500)),
    "arrays that never end": ("/json", b"[" * DEEP, (400, 500)),
    "objects within objects": ("/json", b'{"a":' * DEEP + b"1" + b"}" * DEEP, (400, 500)),
    "a number of a million digits": ("/json", b"1" * 1_000_000, (400, 500)),
    "not a number": ("/json", b"[NaN, Infinity, -Infinity]", (200, 400)),
    "a key twice": ("/json", b'{"nonce": "a", "nonce": "b"}', (200, 400)),
    "half of a surrogate pair": ("/json", b'"\\ud800"', (200, 400)),
    "not UTF-8": ("/json", b'"\xff\xfe"', (400,)),
    "nothing": ("/json", b"", (400,)),
    "zeros": ("/json", b"\0" * 1_000_000, (400,)),
}


def test_hostile_bodies_cost_nobody_anything(cluster_of: ClusterFactory, show: Show) -> None:
    cluster = cluster_of()
    node = cluster.node
    cluster.deploy("echo", num_replicas=2)
    before = {handle.key for handle in cluster.await_replicas(2)}
    workers = newest(node)
    with LoadProcess(node.http_port, rate_per_s=50) as load:
        for name, (path, body, statuses) in BODIES.items():
            status, said = node.http(path, method="POST", body=body)
            assert status in statuses, (name, status, said[:200])
            assert b"Traceback" not in said
        bomb = gzip.compress(b"\0" * (64 << 20))
        status, said = node.http("/size", method="POST", body=bomb, headers={"content-encoding": "gzip"})
        assert status == 200 and b'"size":%d,' % len(bomb) in said, "nobody unpacks what nobody asked to"
    show("hostile bodies", load.report)
    assert load.report.lost == 0 and load.report.refused == 0, load.report.summary()
    assert {handle.key for handle in cluster.await_replicas(2)} == before and newest(node) == workers


async def loris(port: int, count: int, until_s: float) -> int:
    """So many connections that send a byte of a head now and then; how many were told 408."""
    told = 0

    async def one(number: int) -> None:
        nonlocal told
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nx-slow: ")
            answer = asyncio.ensure_future(reader.read())
            while not answer.done() and time.monotonic() < until_s:
                writer.write(b"a")
                await asyncio.wait({answer}, timeout=0.5 + number % 10 / 20)
            told += answer.done() and not answer.exception() and answer.result().startswith(b"HTTP/1.1 408")
            answer.cancel()
        except OSError:
            pass
        finally:
            writer.transport.abort()

    await asyncio.gather(*(one(number) for number in range(count)))
    return told


def attack(node: Node, connections: int) -> tuple[int, LoadProcess]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, connections + 500)), hard))
    with LoadProcess(node.http_port, rate_per_s=50, deadline_s=10) as load:
        time.sleep(0.5)
        told = asyncio.run(loris(node.http_port, connections, time.monotonic() + 20))
        time.sleep(0.5)
    return told, load


@pytest.mark.parametrize("connections", [100, pytest.param(2000, marks=pytest.mark.chaos)])
def test_slow_loris_is_told_408_and_good_clients_lose_nothing(
    cluster_of: ClusterFactory, show: Show, connections: int
) -> None:
    cluster = cluster_of(1, "--http-limit", "head_timeout_s=2", "--http-limit", "keep_alive_timeout_s=60")
    node = cluster.node
    cluster.deploy("echo", num_replicas=2)
    [worker] = newest(node).values()
    before = pss_bytes([worker])
    told, load = attack(node, connections)
    show(f"{connections} slow connections", load.report)
    assert told == connections
    assert load.report.lost == 0 and load.report.refused == 0, load.report.summary()
    assert pss_bytes([worker]) - before < 64 << 20
    eventually(lambda: sockets_of(worker) < 60, 10, "their descriptors are closed")


def sockets_of(process: ProcessId) -> int:
    return sum(1 for _ in Path(f"/proc/{process.pid}/fd").iterdir())
