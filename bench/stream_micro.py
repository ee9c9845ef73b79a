"""Where a request's microseconds go: the stream alone, and HTTP through proxy and a bare replica beside bare uvicorn.

The replica here is a StreamService whose handler answers on the spot, so what is measured is the road, not user code.
Prints requests per second and CPU per request of each process. `python -m bench.stream_micro [--seconds 3] [--profile]`
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import cProfile
import os
import pstats
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import psutil
import uvloop

REPLICA_ID = "bench#Echo#000000"
CLUSTER = "bench"
BODY = b'{"answer": 42}'


# --- the processes -----------------------------------------------------------------------------------------------


class Echo:
    """Answers on the spot."""

    def start(self, request: Any) -> None:
        request.head(200, (b"content-type", b"application/json", b"content-length", b"14"), body=BODY, end=True)
        request.finished()


async def replica(token_path: Path, port: int) -> None:
    from serve_rt.credentials import ClusterToken, stream_server
    from serve_rt.transport.server import ReplicaIdentity, StreamService

    token = ClusterToken.read(token_path)
    service = StreamService(ReplicaIdentity(CLUSTER, REPLICA_ID, 1), token, Echo(), 1000)
    server = stream_server(token)
    server.add_generic_rpc_handlers((service.grpc_handler,))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await until_told()


async def until_told() -> None:
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    await told.wait()


def proxy(folder: Path, port: int) -> None:
    from serve_rt.proxy import main

    sock = listening(port)
    start = {
        "cluster": CLUSTER,
        "node_id": "bench",
        "worker": 0,
        "socket_fd": sock.fileno(),
        "token_path": str(folder / "token"),
        "agent_address": "127.0.0.1:1",
        "routes_path": str(folder / "routes.json"),
        "state_dir": str(folder),
        "port": port,
    }
    main.run(start)


async def bare(port: int) -> None:
    """uvicorn as it comes, with the same answer."""
    import uvicorn

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", b"14")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": BODY})

    config = uvicorn.Config(app, http="httptools", log_config=None, access_log=False, lifespan="off")
    await uvicorn.Server(config).serve(sockets=[listening(port)])


def listening(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    sock.listen(2048)
    return sock


# --- the load ----------------------------------------------------------------------------------------------------


class Connection(asyncio.Protocol):
    """One keep-alive connection that asks again as soon as it was answered."""

    REQUEST = b"GET /x HTTP/1.1\r\nHost: bench\r\nAccept: */*\r\n\r\n"

    def __init__(self, latencies_s: list[float]) -> None:
        self._latencies_s = latencies_s
        self._buffer = b""
        self._asked_s = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        self._ask()

    def _ask(self) -> None:
        assert self._transport is not None
        self._asked_s = time.perf_counter()
        self._transport.write(self.REQUEST)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._buffer.endswith(BODY):
            assert self._buffer.startswith(b"HTTP/1.1 200"), self._buffer[:100]
            self._latencies_s.append(time.perf_counter() - self._asked_s)
            self._buffer = b""
            self._ask()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


async def http_load(port: int, connections: int, seconds: float) -> list[float]:
    latencies_s: list[float] = []
    loop = asyncio.get_running_loop()
    made = [
        (await loop.create_connection(lambda: Connection(latencies_s), "127.0.0.1", port))[1]
        for _ in range(connections)
    ]
    await asyncio.sleep(seconds)
    for connection in made:
        connection.close()
    return latencies_s


async def stream_load(token_path: Path, port: int, in_flight: int, seconds: float) -> list[float]:
    from serve_rt.credentials import ClusterToken
    from serve_rt.model.ids import AppName, DeploymentKey, DeploymentName, NodeId, ReplicaId
    from serve_rt.model.routes import DeploymentRoute, ReplicaRoute, RouteTable
    from serve_rt.pb import stream_pb2 as pb
    from serve_rt.routing import Outgoing, Routers

    key = DeploymentKey(AppName("bench"), DeploymentName("Echo"))
    routers = Routers(CLUSTER, ClusterToken.read(token_path), "bench")
    place = ReplicaRoute(ReplicaId(REPLICA_ID), 1, f"127.0.0.1:{port}", NodeId("bench"))
    routers.update(RouteTable(CLUSTER, 1, (), (DeploymentRoute(key.app, key.deployment, (place,)),)))
    router = routers.router(key)
    latencies_s: list[float] = []
    until = time.perf_counter() + seconds

    async def ask() -> None:
        while time.perf_counter() < until:
            asked_s = time.perf_counter()
            exchange = await router.send(Outgoing(pb.HttpHead(method="GET", path="/x"), None, b"", True, "id"))
            while await exchange.read() is not None:
                pass
            latencies_s.append(time.perf_counter() - asked_s)

    await asyncio.gather(*(ask() for _ in range(in_flight)))
    await routers.close()
    return latencies_s


# --- putting it together -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Child:
    name: str
    process: psutil.Process

    def cpu_s(self) -> float:
        times = self.process.cpu_times()
        return times.user + times.system


@contextlib.contextmanager
def child(role: str, folder: Path, port: int, profile: bool) -> Iterator[Child]:
    command = [sys.executable, "-m", "bench.stream_micro", "--role", role, "--folder", str(folder), "--port", str(port)]
    started = subprocess.Popen([*command, *(["--profile"] if profile else [])])
    try:
        wait_for_port(port)
        yield Child(role, psutil.Process(started.pid))
    finally:
        started.send_signal(signal.SIGINT if role == "bare" else signal.SIGTERM)
        try:
            started.wait(timeout=5)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def wait_for_port(port: int) -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise AssertionError(f"nothing listens on port {port} after 20 s")


def report(what: str, latencies_s: list[float], seconds: float, spent: dict[str, float]) -> float:
    count = len(latencies_s)
    ordered = sorted(latencies_s)
    p50, p99 = ordered[count // 2] * 1000, ordered[int(count * 0.99)] * 1000
    cpu = "  ".join(f"{name} {cpu_s / count * 1e6:.0f} us" for name, cpu_s in spent.items())
    print(f"{what:<24} {count / seconds:>8.0f} req/s  p50 {p50:.3f} ms  p99 {p99:.3f} ms   {cpu}", flush=True)
    return count / seconds


def measure(what: str, load: Any, seconds: float, children: list[Child]) -> float:
    before = {c.name: c.cpu_s() for c in children}
    latencies_s = uvloop.run(load)
    return report(what, latencies_s, seconds, {c.name: c.cpu_s() - before[c.name] for c in children})


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def write_routes(folder: Path, port: int) -> None:
    from serve_rt.model.ids import AppName, DeploymentName, NodeId, ReplicaId
    from serve_rt.model.routes import AppRoute, DeploymentRoute, ReplicaRoute, RouteTable
    from serve_rt.wire import records

    app, echo = AppName("bench"), DeploymentName("Echo")
    place = ReplicaRoute(ReplicaId(REPLICA_ID), 1, f"127.0.0.1:{port}", NodeId("bench"))
    deployment = DeploymentRoute(app, echo, (place,), max_ongoing_requests=1000)
    table = RouteTable(CLUSTER, 1, (AppRoute(app, "/", echo),), (deployment,))
    (folder / "routes.json").write_bytes(records.encode(table))


def run(seconds: float, profile: bool) -> None:
    from serve_rt.credentials import ClusterToken

    with tempfile.TemporaryDirectory(prefix="srt-bench-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        ClusterToken.create(folder / "token")
        replica_port, proxy_port, bare_port = free_port(), free_port(), free_port()
        write_routes(folder, replica_port)
        behind = stack.enter_context(child("replica", folder, replica_port, profile))
        for in_flight in (1, 32, 128):
            load = stream_load(folder / "token", replica_port, in_flight, seconds)
            measure(f"stream alone, {in_flight}", load, seconds, [behind])
        front = stack.enter_context(child("proxy", folder, proxy_port, profile))
        beside = stack.enter_context(child("bare", folder, bare_port, False))
        for connections in (1, 32, 128):
            rates: dict[str, list[float]] = {"bare": [], "ours": []}
            for _ in range(2):
                load = http_load(bare_port, connections, seconds)
                rates["bare"].append(measure(f"bare uvicorn, {connections}", load, seconds, [beside]))
                load = http_load(proxy_port, connections, seconds)
                rates["ours"].append(measure(f"through proxy, {connections}", load, seconds, [front, behind]))
            print(f"    ratio {sum(rates['ours']) / sum(rates['bare']):.2f}")


def be(role: str, folder: Path, port: int) -> None:
    if role == "proxy":
        proxy(folder, port)
    elif role == "replica":
        uvloop.run(replica(folder / "token", port))
    else:
        with contextlib.suppress(KeyboardInterrupt):
            uvloop.run(bare(port))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--profile", action="store_true", help="print where each process spends its time")
    parser.add_argument("--role", choices=["proxy", "replica", "bare"])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--port", type=int, default=0)
    given = parser.parse_args()
    if given.role is None:
        run(given.seconds, given.profile)
    elif given.profile:
        profiler = cProfile.Profile()
        profiler.runcall(be, given.role, given.folder, given.port)
        print(f"--- {given.role} (pid {os.getpid()})", flush=True)
        pstats.Stats(profiler).sort_stats("tottime").print_stats(40)
    else:
        be(given.role, given.folder, given.port)


if __name__ == "__main__":
    main()
