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


WORDS = {
    "text_models.py": ["IT WAS THE", "BY HANDLE"],
    "chat.py": ["['tick', 'tock', 'tick', 'tock', 'tick']"],
    "batches.py": ["True", "True"],
    "old_style.py": ["{'gathered': [6, 15], 'mean': 10.5, 'audit': '/old'}", "first", "second"],
    "shop.py": [
        "{'who': 'bob', 'up': True, 'item': '/shop/items/3'} bob",
        "201 {'name': 'PEAR', 'price': '1.50'}",
        "422 [['body', 'name'], ['body', 'price']]",
        "[3, ['a', 'b'], 'f', '1'] 422",
        "[(200, {'left': 1, 'currency': 'USD'}), (409, {'out of': 'apple', 'left': 1})]",
        "[401, 200]",
        "300000 plain",
        "1000 gzip",
        "https://shop.example",
        "['/', '/items', '/items/{number}'] 200",
    ],
    "rooms.py": [
        'data: {"token": "hi0"} data: {"token": "hi2"} data: [DONE]',
        'data: {"token": "left0"}',
        "chat True",
        "bob left with 4001",
        "1",
        "broke 'half way'",
    ],
    "scoring.py": ["True True", "[8.0, 12.0] 8.0 2", "(7, '7: no such label') 2.0 2", "7 True", "100.0 100.0"],
    "tenants.py": [
        "['greeter', 'front', 'seven'] 7",
        "hello ann > hello ann hello bob",
        "> HELLO CY {'front': 'RUNNING', 'greeter': 'RUNNING', 'seven': 'RUNNING'}",
        "refused True",
        "['front', 'greeter']",
    ],
}
"""By program, the lines it prints."""


@covers("1.17-01", "1.17-06")
@pytest.mark.parametrize("program", WORDS)
def test_programs_of_strangers(program: str) -> None:
    assert output(program).splitlines() == WORDS[program]
