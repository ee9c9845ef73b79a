from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest

import serve_rt as serve
from serve_rt.api import session as sessions


@pytest.fixture(scope="module")
def own_cluster() -> Iterator[str]:
    """A cluster of this process, with real processes; the value is its HTTP address."""
    folder = tempfile.mkdtemp(prefix="srt-", dir="/tmp")
    before = {name: os.environ.get(name) for name in ("SERVE_STATE_DIR", "SERVE_ADDRESS")}
    os.environ["SERVE_STATE_DIR"] = folder
    os.environ.pop("SERVE_ADDRESS", None)
    try:
        serve.start(http_options={"port": 0})
        yield sessions.current().identity.http_address
    finally:
        serve.shutdown()
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)
        shutil.rmtree(folder, ignore_errors=True)
