"""mypy, strict, over a user's program: what it reveals and what it refuses stands beside the lines."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("program.py.txt")
ROOT = PROGRAM.parents[2]
SHORT = re.compile(r"\b(?:builtins|typing|collections\.abc|serve_rt(?:\.\w+)*)\.(?=\w)")
TOLD = re.compile(r"^.*program\.py:(\d+): (note|error): (.*)$")


def mypy(folder: Path) -> list[tuple[int, str, str]]:
    pytest.importorskip("mypy")
    program = folder / "program.py"
    program.write_text(PROGRAM.read_text())
    # With the cache of this repository's lint run it takes seconds instead of a minute.
    cache = ROOT / ".mypy_cache"
    command = [sys.executable, "-m", "mypy", "--strict", "--show-error-codes", "--no-error-summary"]
    command += [
        "--cache-dir",
        str(cache if cache.is_dir() else folder),
        "--config-file",
        "pyproject.toml",
        str(program),
    ]
    env = {**os.environ, "MYPYPATH": str(ROOT)}
    told = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=150)
    found = [TOLD.match(line) for line in told.stdout.splitlines()]
    assert not told.stderr, told.stderr
    return [(int(one[1]), one[2], one[3]) for one in found if one is not None]


@pytest.mark.timeout(160)
def test_types_are_kept_and_mistakes_are_found(tmp_path: Path) -> None:
    lines = PROGRAM.read_text().splitlines()
    told = mypy(tmp_path)
    errors = {number: text.rpartition("[")[2].rstrip("]") for number, kind, text in told if kind == "error"}
    wanted = {n: line.partition("# E: ")[2].split()[0] for n, line in enumerate(lines, 1) if "# E: " in line}
    assert errors == wanted, told
    revealed = {n: SHORT.sub("", text) for n, kind, text in told if kind == "note" and "Revealed" in text}
    for number, line in enumerate(lines, 1):
        if "# R: " in line:
            assert revealed[number] == f'Revealed type is "{line.partition("# R: ")[2]}"'
