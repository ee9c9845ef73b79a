"""Whole programs as strangers write them, each run as a script with a cluster of its own that ends with it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.processes import eventually, processes_of
from tests.conformance.bullets import covers

PROGRAMS = Path(__file__).parent / "programs"
ROOT = PROGRAMS.parents[2]


@contextlib.contextmanager
def started(program: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Ended and looked after: nothing of its cluster may be left."""
    folder = tempfile.mkdtemp(prefix="srt-", dir="/tmp")
    env = {name: value for name, value in os.environ.items() if not name.startswith("SERVE_")}
    process = subprocess.Popen(
        [sys.executable, str(PROGRAMS / program), *arguments],
        env={**env, "SERVE_STATE_DIR": folder, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder,
    )  # fmt: skip
    try:
        yield process
        eventually(lambda: not list(processes_of(Path(folder))), 20, "the cluster ended with its program")
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()
        for one, _ in processes_of(Path(folder)):
            one.kill_if_alive()
        shutil.rmtree(folder, ignore_errors=True)


def output(program: str) -> str:
    with started(program) as process:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert "Traceback" not in err, err
    return out


@covers("1.2-02", "1.4-01", "1.4-02", "1.4-03", "1.5-03", "1.6-01")
def test_the_life_of_a_cluster() -> None:
    seen = json.loads(output("life.py"))
    assert "There is no Serve instance running" in seen.pop("delete without a cluster")
    assert seen == {"status without a cluster": 0, "answer": "hello", "status after shutdown": 0}


@covers("1.2-03")
def test_blocking_until_ctrl_c() -> None:
    with started("life.py", "block") as process:
        assert process.stdout is not None and process.stdout.readline() == "blocking\n"
        lines = iter(process.stderr.readline, "") if process.stderr is not None else iter(())
        assert any("is ready at" in line for line in lines)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=40)
        assert "KeyboardInterrupt" in err
        assert process.returncode in (1, 130, -signal.SIGINT)


@covers("1.17-01", "1.17-06")
@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("text_models.py", "IT WAS THE\nBY HANDLE\n"),
        ("chat.py", "['tick', 'tock', 'tick', 'tock', 'tick']\n"),
        ("batches.py", "True\nTrue\n"),
        ("old_style.py", "{'gathered': [6, 15], 'mean': 10.5, 'audit': '/old'}\nfirst\nsecond\n"),
    ],
)
def test_programs_of_strangers(program: str, words: str) -> None:
    assert output(program) == words
