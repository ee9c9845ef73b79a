"""The dashboard as a person sees it: a real cluster, `serve dashboard`, and a real browser that looks at it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.processes import eventually
from tests.dashboard.browser import CHROMIUM, browser
from tests.examples.served import Served, serve_run

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(not CHROMIUM, reason="needs a browser: apt install chromium"),
]
SEEN_S = 30.0


@contextlib.contextmanager
def dashboard(served: Served) -> Iterator[str]:
    """`serve dashboard` beside `served`; its URL."""
    env = {**os.environ, "SERVE_STATE_DIR": str(served.folder / "s"), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "serve_rt.cli.main", "dashboard", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/", line)
        assert found, line
        yield found[0]
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(20) == 0, rest
        assert rest == "Ctrl-C ends it; the cluster goes on.\n"
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()


def test_a_person_watches_an_application() -> None:
    with serve_run("tests.dashboard.watched:app", env={"PYTHONPATH": str(Path.cwd())}) as served, browser() as tab:
        with dashboard(served) as url:
            tab.go(url)
            eventually(lambda: "RUNNING" in tab.text() and "live" in tab.text(), SEEN_S, "the application is shown")
            for number in range(60):
                status, _ = served.request("GET", f"/?number={number}")
                assert status == (500 if number % 10 == 0 else 200)
            cell = "document.querySelector('table[data-name=applications] tbody tr')?.cells[5]?.textContent"
            eventually(lambda: float(tab.run(f"parseFloat({cell}) || 0")) > 0, SEEN_S, "requests per second are shown")
            assert tab.run(curves("Requests per second")) == 1
            tab.click("default")
            tab.click("Watched")
            eventually(lambda: "1 wanted, 1 running, 1 to 2 allowed" in tab.text(), SEEN_S, "the autoscaler's word")
            assert tab.run(curves("Replicas")) == 3
            tab.click("default#Watched#")
            eventually(lambda: "<b>asked for 59</b>" in tab.text(), SEEN_S, "its log is shown, as text")
            tab.click("Nodes")
            eventually(lambda: "(leader)" in tab.text() and "HEALTHY" in tab.text(), SEEN_S, "the node is shown")
            assert tab.errors == []
        eventually(lambda: "has serve dashboard ended?" in tab.text(), SEEN_S, "the page says that nobody answers")


def curves(title: str) -> str:
    """How many curves are drawn in a plot, as JavaScript."""
    return f"document.querySelectorAll('figure[data-title=\"{title}\"] path[d^=M]').length"


def test_without_a_cluster_it_says_what_to_do(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("SERVE_")}
    ended = subprocess.run(
        [sys.executable, "-m", "serve_rt.cli.main", "dashboard", "--state-dir", str(tmp_path)],
        capture_output=True, text=True, timeout=60, env=env,
    )  # fmt: skip
    assert ended.returncode == 1
    assert "There is no Serve instance running" in ended.stderr and "serve run" in ended.stderr
