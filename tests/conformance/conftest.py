"""One real cluster for all conformance cases; each module puts its applications beside those of the others."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import serve_rt as serve
from serve_rt.api import session as sessions
from tests.cluster.processes import processes_of
from tests.conformance.asking import Cluster


@pytest.fixture(scope="package")
def cluster() -> Iterator[Cluster]:
    """A cluster that this process started with `serve.start`; nothing of it may be left at the end."""
    folder = tempfile.mkdtemp(prefix="srt-", dir="/tmp")
    before = {name: os.environ.get(name) for name in ("SERVE_STATE_DIR", "SERVE_ADDRESS")}
    os.environ["SERVE_STATE_DIR"] = folder
    os.environ.pop("SERVE_ADDRESS", None)
    try:
        serve.start(http_options={"port": 0})
        yield Cluster(sessions.current().identity.http_address, folder)
    finally:
        serve.shutdown()
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)
        left = list(processes_of(Path(folder)))
        shutil.rmtree(folder, ignore_errors=True)
    assert not left, f"left behind: {left}"
