"""Who is measured, and how each is started and ended. A contender is up when it echoes a nonce."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.etcd_server import free_ports
from tests.cluster.processes import eventually, handle_files
from tests.examples.served import serve_run

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / "bench" / "peers"
UP_S = 120.0


@dataclass(frozen=True, slots=True)
class Up:
    """A contender that runs."""

    port: int
    path: str = "/"
    proxy_pids: tuple[int, ...] = ()
    counters: Callable[[], dict[str, float]] | None = None


@dataclass(frozen=True, slots=True)
class Contender:
    name: str
    run: Callable[[], contextlib.AbstractContextManager[Up]]


def contenders() -> list[Contender]:
    """serve_rt first, the yardstick second, then the peers whose environment is given by a variable."""
    found = [Contender("serve_rt", serve_rt), Contender("uvicorn", bare_uvicorn)]
    for name, variable, command, path in (
        ("ray serve", "BENCH_RAY_PYTHON", ("ray_app.py", "{port}"), "/"),
        ("mosec", "BENCH_MOSEC_PYTHON", ("mosec_app.py", "--port", "{port}"), "/inference"),
        ("litserve", "BENCH_LITSERVE_PYTHON", ("litserve_app.py", "{port}"), "/predict"),
    ):
        if python := os.environ.get(variable):
            found.append(Contender(name, peer(python, command, path)))
    return found


@contextlib.contextmanager
def serve_rt(target: str = "bench.apps:noop") -> Iterator[Up]:
    with serve_run(target, env={"PYTHONPATH": str(ROOT)}, timeout_s=UP_S) as served:
        proxies = tuple(h.process.pid for h in handle_files(served.folder / "s") if h.kind == "proxy")
        assert proxies, "no proxy is running"
        yield Up(served.port, "/", proxies, lambda: counters(served.port))


def counters(port: int) -> dict[str, float]:
    """The proxy's own counts, flattened: `a.b` for nested ones."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/-/counters")
        answer = connection.getresponse()
        body = answer.read()
        assert answer.status == 200, f"/-/counters: {answer.status} {body[:100]!r}"
    finally:
        connection.close()
    flat: dict[str, float] = {}

    def walk(prefix: str, value: object) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                walk(f"{prefix}.{name}" if prefix else str(name), inner)
        elif isinstance(value, int | float):
            flat[prefix] = float(value)

    walk("", json.loads(body))
    return flat


@contextlib.contextmanager
def bare_uvicorn(target: str = "bench.peers.bare:app") -> Iterator[Up]:
    [port] = free_ports(1)
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        target,
        "--ws",
        "websockets-sansio",
        "--http",
        "httptools",
        "--loop",
        "uvloop",
    ]
    command += ["--no-access-log", "--workers", "1", "--log-level", "warning", "--port", str(port), "--lifespan", "off"]
    with _process(command, port, "/") as up:
        yield up


def peer(python: str, command: tuple[str, ...], path: str) -> Callable[[], contextlib.AbstractContextManager[Up]]:
    """Somebody else's server, in the environment of `python`."""

    def run() -> contextlib.AbstractContextManager[Up]:
        [port] = free_ports(1)
        script, *arguments = (part.format(port=port) for part in command)
        return _process([python, str(PEERS / script), *arguments], port, path)

    return run


@contextlib.contextmanager
def _process(command: list[str], port: int, path: str) -> Iterator[Up]:
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        try:
            eventually(lambda: _echoes(port, path) or process.poll() is not None, UP_S, f"{command} answers")
            if process.poll() is not None:
                log.seek(0)
                raise AssertionError(f"{command} ended: {log.read()[-2000:].decode(errors='replace')}")
            yield Up(port, path)
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                pass
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its own session: workers that outlived it
            process.wait(10)


def _echoes(port: int, path: str) -> bool:
    time.sleep(0.05)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("POST", path, b'{"nonce": "up"}', {"content-type": "application/json"})
        answer = connection.getresponse()
        return answer.status == 200 and b'"up"' in answer.read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
