"""Requests of other shapes: a hop over a handle, large bodies, streams, WebSockets; in turns with peers."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

from bench.contenders import ROOT, Up, bare_uvicorn, peer, serve_rt
from bench.http_bench import ask
from bench.shape_client import Shaped


@dataclass(frozen=True, slots=True)
class Shape:
    title: str
    path: str
    arguments: tuple[str, ...]
    unit: str
    """`ms` compares medians, `/s` rates."""
    rivals: tuple[str, ...]


_BOTH = ("ray serve", "uvicorn")
_ECHO = ("--shape", "echo", "--bytes")
_STREAM = ("--shape", "stream", "--connections", "8")
SHAPES = (
    Shape("echo 1 MB, 1 connection", "/echo", (*_ECHO, "1000000"), "ms", _BOTH),
    Shape("echo 10 MB, 1 connection", "/echo", (*_ECHO, "10000000"), "ms", _BOTH),
    Shape("200 chunks, 8 connections", "/stream", _STREAM, "/s", _BOTH),
    Shape("200 chunks 1 ms apart: latest", "/slow", _STREAM, "late", _BOTH),
    Shape("WebSocket echo, 32 sockets", "/ws", ("--shape", "websocket", "--connections", "32"), "/s", ("uvicorn",)),
)


@dataclass(slots=True)
class Result:
    title: str
    server: str
    unit: str
    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.values)


@contextlib.contextmanager
def _running() -> Iterator[dict[str, Up]]:
    with contextlib.ExitStack() as stack:
        up = {
            "serve_rt": stack.enter_context(serve_rt("bench.shape_apps:app")),
            "uvicorn": stack.enter_context(bare_uvicorn("bench.peers.bare_shapes:app")),
        }
        if python := os.environ.get("BENCH_RAY_PYTHON"):
            up["ray serve"] = stack.enter_context(peer(python, ("ray_shapes.py", "{port}"), "/")())
        yield up


def run(seconds: float, rounds: int) -> list[Result]:
    results: dict[tuple[str, str], Result] = {}
    with _running() as running:
        for name, up in running.items():
            if name == "uvicorn":
                continue  # it has nobody to hop to
            for connections in (1, 32):
                title = f"handle hop, {connections} connection{'s' if connections > 1 else ''}"
                result = results.setdefault((title, name), Result(title, name, "/s"))
                for _ in range(rounds):
                    result.values.append(ask(Up(up.port, "/hop"), connections, seconds).per_second)
        for shape in SHAPES:
            for _ in range(rounds):
                for name in ("serve_rt", *shape.rivals):
                    if name in running:
                        result = results.setdefault((shape.title, name), Result(shape.title, name, shape.unit))
                        result.values.append(_measure(running[name], shape, seconds))
    return list(results.values())


def _measure(up: Up, shape: Shape, seconds: float) -> float:
    command = [sys.executable, "-m", "bench.shape_client", "--port", str(up.port), "--path", shape.path]
    command += [*shape.arguments, "--seconds", str(seconds)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds + 60)
    assert ended.returncode == 0, ended.stderr
    shaped = Shaped(**json.loads(ended.stdout))
    assert shaped.count and not shaped.wrong, f"{shape.title}: {shaped.wrong} of {shaped.count} answers were wrong"
    return {"ms": shaped.p50_ms, "late": shaped.late_ms, "/s": shaped.per_second}[shape.unit]
