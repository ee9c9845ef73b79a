"""One cluster for all tests of a module here; it must leave nothing."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import serve_rt as serve
from serve_rt.work import lives, pool
from tests.cluster.processes import eventually, processes_of

IDLE_S = 1.0
"""Shorter than in life: a test waits for it."""


@pytest.fixture(scope="package")
def cluster() -> Iterator[Path]:
    """A cluster of this process with two CPUs to give; the value is its state dir."""
    folder = Path(tempfile.mkdtemp(prefix="srt-", dir="/tmp"))
    before = {name: os.environ.get(name) for name in ("SERVE_STATE_DIR", "SERVE_ADDRESS")}
    os.environ["SERVE_STATE_DIR"] = str(folder)
    os.environ.pop("SERVE_ADDRESS", None)
    idle_s, grace_s = pool.IDLE_S, lives.OWNER_GRACE_S
    pool.IDLE_S, lives.OWNER_GRACE_S = IDLE_S, IDLE_S
    try:
        serve.start(http_options={"port": 0})
        yield folder
    finally:
        serve.shutdown()
        pool.IDLE_S, lives.OWNER_GRACE_S = idle_s, grace_s
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)
        eventually(lambda: not list(processes_of(folder)), 10, "shutdown leaves no process")
        shutil.rmtree(folder, ignore_errors=True)
