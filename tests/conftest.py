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


_HERE = Path(__file__).parent
_SLOW = {_HERE / name for name in ("cluster", "conformance", "examples", "gpu")}


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist deals them out
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Cluster tests are marked, and come last: the fast ones say first what is wrong. With several workers
    (`pytest -n 3 --dist loadfile`) they come first: what takes longest must not begin last."""
    for item in items:
        if item.path.parent in _SLOW:
            item.add_marker(pytest.mark.cluster)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(180))
    several = hasattr(config, "workerinput")
    items.sort(key=lambda item: (item.path.parent in _SLOW) is not several)
