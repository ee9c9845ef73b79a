"""`serve run` as a person types it: a process of its own, its ready line read, ended by Ctrl-C."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.cluster.processes import eventually, processes_of

READY = re.compile(r"http://127\.0\.0\.1:(\d+)")


@dataclass
class Served:
    process: subprocess.Popen[str]
    folder: Path
    port: int = 0
    lines: list[str] = field(default_factory=list)

    def request(self, method: str, path: str = "/", body: bytes | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            headers = {"content-type": "application/json"} if body is not None else {}
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def get(self, path: str = "/") -> str:
        status, body = self.request("GET", path)
        assert status == 200, (status, body)
        return body.decode()

    def post(self, value: Any, path: str = "/") -> Any:
        status, body = self.request("POST", path, json.dumps(value).encode())
        assert status == 200, (status, body)
        return json.loads(body)

    def curl(self) -> str:
        """The command that `serve run` printed, ready to paste."""
        return next(line.strip() for line in self.lines if line.strip().startswith("curl "))

    def output(self) -> str:
        return "".join(self.lines)


@contextlib.contextmanager
def serve_run(
    target: str, *options: str, timeout_s: float = 90.0, env: dict[str, str] | None = None
) -> Iterator[Served]:
    """Yields once the ready line is there; at the end Ctrl-C, and nothing may be left."""
    folder = Path(tempfile.mkdtemp(prefix="srt-", dir="/tmp"))
    command = [sys.executable, "-m", "serve_rt.cli.main", "run", "--port", "0", "--http-port", "0", *options, target]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SERVE_")}
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder,
        env={**clean, "SERVE_STATE_DIR": str(folder / "s"), "PYTHONUNBUFFERED": "1", "COLUMNS": "200", **(env or {})},
        start_new_session=True,
    )  # fmt: skip
    served = Served(process, folder)
    ready: queue.Queue[int] = queue.Queue()
    reader = threading.Thread(target=_read, args=(served, ready), name="output of serve run", daemon=True)
    reader.start()
    try:
        served.port = _await_ready(served, ready, timeout_s)
        yield served
        _ctrl_c(served)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)
        reader.join(10)
        left = list(processes_of(folder))
        for one, _ in left:
            one.kill_if_alive()
        assert process.stdout is not None
        process.stdout.close()
        shutil.rmtree(folder, ignore_errors=True)
    assert not left, f"left behind: {left}"


def _read(served: Served, ready: queue.Queue[int]) -> None:
    assert served.process.stdout is not None
    for line in served.process.stdout:
        served.lines.append(line)
        if (found := READY.search(line)) and "agent" not in line.lower():
            ready.put(int(found[1]))


def _await_ready(served: Served, ready: queue.Queue[int], timeout_s: float) -> int:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with contextlib.suppress(queue.Empty):
            return ready.get(timeout=0.1)
        assert served.process.poll() is None, f"serve run ended: {served.output()}"
    raise AssertionError(f"no ready line within {timeout_s:g} s: {served.output()}")


def _ctrl_c(served: Served) -> None:
    served.process.send_signal(signal.SIGINT)
    returncode = served.process.wait(30)
    assert returncode in (0, 130, -signal.SIGINT), f"{returncode}: {served.output()}"
    assert "Traceback" not in served.output(), served.output()
    eventually(lambda: not list(processes_of(served.folder)), 5, "Ctrl-C leaves no process")
