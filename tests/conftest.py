"""For all tests: no test may touch the user's own state dir, cluster or model hub, and cluster tests are marked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before anything reads them: a cluster of the person who runs the tests is none of our business.
for _name in ("SERVE_ADDRESS", "SERVE_STATE_DIR", "SERVE_TEST_DISABLE"):
    os.environ.pop(_name, None)
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Real clusters last: the fast tests say first what is wrong."""
    here = Path(__file__).parent
    slow_folders = {here / "cluster", here / "conformance", here / "examples", here / "gpu"}
    for item in items:
        if slow_folders & {item.path.parent}:
            item.add_marker(pytest.mark.cluster)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(180))
    items.sort(key=lambda item: item.path.parent in slow_folders)
