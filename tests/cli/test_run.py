"""`serve run` as a person types it: real processes, the printed URL, Ctrl-C, nothing left."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.cluster


@pytest.fixture
def state() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="srt-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def _serve(state: Path, *arguments: str, cwd: Path | None = None) -> subprocess.Popen[str]:
    env = {name: value for name, value in os.environ.items() if name != "SERVE_ADDRESS"}
    env["SERVE_STATE_DIR"] = str(state)
    command = [sys.executable, "-m", "serve_rt.cli.main", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, cwd=cwd)


def _left(state: Path) -> list[int]:
    """Processes that know this state dir: by their command line or their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            told = [*process.cmdline(), process.environ().get("SERVE_STATE_DIR", "")]
        except psutil.Error:
            continue
        if any(str(state) in text for text in told) and process.pid != os.getpid():
            found.append(process.pid)
    return found


def _until_nothing_is_left(state: Path) -> None:
    deadline = time.monotonic() + 5
    while left := _left(state):
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.05)


@contextmanager
def until_ctrl_c(running: subprocess.Popen[str], state: Path) -> Iterator[None]:
    """After the block: Ctrl-C ends it well, and nothing of it is left."""
    try:
        yield
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=30)
        assert running.returncode == 0
    finally:
        running.kill()
        running.communicate()
    _until_nothing_is_left(state)


def test_run_answers_where_it_says_and_ctrl_c_leaves_nothing(state: Path) -> None:
    running = _serve(state, "run", "serve_rt.examples.hello:app", "--http-port", "0")
    assert running.stdout is not None
    with until_ctrl_c(running, state):
        ready = running.stdout.readline()
        assert ready.startswith("Application 'default' is ready at http://127.0.0.1:"), running.communicate()
        curl = running.stdout.readline().split()
        assert curl[0] == "curl" and curl[1] in ready
        with urllib.request.urlopen(f"{curl[1]}?name=Ada", timeout=10) as answer:
            assert answer.read() == b"Hello, Ada!"
        shown, _ = _serve(state, "status").communicate(timeout=20)
        assert "status: RUNNING" in shown


def test_killed_without_a_word_it_leaves_nothing_either(state: Path) -> None:
    running = _serve(state, "run", "serve_rt.examples.hello:app", "--http-port", "0")
    assert running.stdout is not None
    assert running.stdout.readline().startswith("Application 'default' is ready")
    assert _left(state)
    running.kill()
    running.communicate()
    _until_nothing_is_left(state)


def test_an_import_that_fails_shows_the_users_traceback_and_leaves_nothing(state: Path) -> None:
    (state / "mine.py").write_text("def load():\n    raise ValueError('my own mistake')\n\nload()\n")
    ended = _serve(state, "run", "mine:app", "--http-port", "0", cwd=state)
    out, err = ended.communicate(timeout=30)
    assert ended.returncode == 1 and not out
    assert "ValueError: my own mistake" in err and "load()" in err
    assert "serve_rt" not in err
    _until_nothing_is_left(state)


def test_a_port_that_is_taken_is_named_with_its_holder(state: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        ended = _serve(state, "run", "serve_rt.examples.hello:app", "--http-port", str(port))
        _, err = ended.communicate(timeout=30)
    assert ended.returncode == 1
    assert str(port) in err and f"pid {os.getpid()}" in err
    assert "Traceback" not in err
    _until_nothing_is_left(state)


def test_a_program_that_runs_itself_when_it_is_imported(state: Path) -> None:
    """It finds the cluster that is coming up, and its replicas do not wait for themselves."""
    (state / "both.py").write_text(
        "import serve_rt as serve\n\n@serve.deployment\ndef word(request):\n    return 'both'\n\n"
        "app = word.bind()\nserve.run(app)\n"
    )
    running = _serve(state, "run", "both:app", "--http-port", "0", cwd=state)
    assert running.stdout is not None
    with until_ctrl_c(running, state):
        ready = running.stdout.readline()
        assert ready.startswith("Application 'default' is ready at http://127.0.0.1:"), running.communicate()
        with urllib.request.urlopen(ready.split()[-1], timeout=10) as answer:
            assert answer.read() == b"both"
