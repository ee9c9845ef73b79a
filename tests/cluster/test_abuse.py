"""Hostile clients and bodies against real processes, while good clients ask on."""

from __future__ import annotations

import asyncio
import gzip
import os
import resource
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cluster.conftest import ClusterFactory, Show
from tests.cluster.harness import Node
from tests.cluster.processes import ProcessId, eventually, pss_bytes
from tests.cluster.test_proxy_restarts import newest
from tests.load.process import LoadProcess

DEEP = 100_000
PARTS = 1_000_000
IDLE = 300
P99_S = 3.0
"""Of good clients beside an attack; a shared machine does not hold still, the figure is printed."""
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
        _a_million_parts(node, [*workers.values(), *(handle.process for handle in cluster.await_replicas(2))])
        _tiny_pieces(node, next(iter(workers.values())))
    show("hostile bodies", load.report)
    assert load.report.lost == 0 and load.report.refused == 0, load.report.summary()
    assert {handle.key for handle in cluster.await_replicas(2)} == before and newest(node) == workers


def _a_million_parts(node: Node, processes: list[ProcessId]) -> None:
    body = b'--part\r\ncontent-disposition: form-data; name="a"\r\n\r\n1\r\n' * PARTS
    before, most, began_s = pss_bytes(processes), 0, time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(node.http, "/parts", method="POST", body=body, timeout_s=60)
        while not asked.done():
            most = max(most, pss_bytes(processes) - before)
            time.sleep(0.02)
    status, said = asked.result()
    print(
        f"    {PARTS} parts, {len(body) >> 20} MiB: {time.monotonic() - began_s:.1f} s, "
        f"worker and replicas {most / (1 << 20):+.1f} MiB at most"
    )
    assert status == 200 and b'"parts":%d,' % PARTS in said
    assert most < len(body) / 2, "it is handed on, not kept"


def _tiny_pieces(node: Node, worker: ProcessId) -> None:
    """A body in chunks of one byte, each sent by itself, for a while, beside connections that do nothing."""
    idle = [socket.create_connection((node.http_host, node.http_port)) for _ in range(IDLE)]
    for connection in idle:
        connection.sendall(b"GET /-/healthz HTTP/1.1\r\nhost: x\r\n\r\n")
    for connection in idle:
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
    before_s, began_s = cpu_s(worker), time.monotonic()
    time.sleep(1.0)
    at_rest = (cpu_s(worker) - before_s) / (time.monotonic() - began_s)
    with socket.create_connection((node.http_host, node.http_port)) as sender:
        sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sender.sendall(b"POST /parts HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        before_s, began_s, sent = cpu_s(worker), time.monotonic(), 0
        while time.monotonic() < began_s + 1.0:
            sender.sendall(b"1\r\nx\r\n")
            sent += 1
            time.sleep(0.002)
        took_s = cpu_s(worker) - before_s
        share = took_s / (time.monotonic() - began_s)
        sender.sendall(b"0\r\n\r\n")
        assert sender.recv(4096).startswith(b"HTTP/1.1 200")
    for connection in idle:
        connection.close()
    print(f"    worker's CPU beside {IDLE} idle connections and 50 requests/s: {at_rest:.1%}")
    print(
        f"    the same with {sent} chunks of a byte in a second: {share:.1%}, {took_s / sent * 1e6:.0f} us each at most"
    )
    assert at_rest < 0.5 and share < 0.8, "no busy loop"


def cpu_s(process: ProcessId) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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
    with LoadProcess(node.http_port, rate_per_s=50) as alone:
        time.sleep(1.5)
    before, before_s, began_s = pss_bytes([worker]), cpu_s(worker), time.monotonic()
    told, load = attack(node, connections)
    show(f"{connections} slow connections", load.report)
    p99_s, alone_s = load.report.latency_s(0.99), alone.report.latency_s(0.99)
    print(
        f"    good clients' p99 {p99_s * 1e3:.1f} ms, alone {alone_s * 1e3:.1f} ms; "
        f"worker's CPU {(cpu_s(worker) - before_s) / (time.monotonic() - began_s):.1%}"
    )
    assert p99_s < P99_S
    assert told == connections
    assert load.report.lost == 0 and load.report.refused == 0, load.report.summary()
    assert pss_bytes([worker]) - before < 64 << 20
    eventually(lambda: sockets_of(worker) < 60, 10, "their descriptors are closed")


def sockets_of(process: ProcessId) -> int:
    return sum(1 for _ in Path(f"/proc/{process.pid}/fd").iterdir())
