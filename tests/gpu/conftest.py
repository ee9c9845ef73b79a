"""GPU tests are skipped, with a message, where NVML finds no device."""

from __future__ import annotations

import pytest


def visible_gpus() -> list[str]:
    """UUIDs as the agent discovers them."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return [str(pynvml.nvmlDeviceGetUUID(handle)) for handle in handles]
    finally:
        pynvml.nvmlShutdown()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    gpus = visible_gpus()
    for item in items:
        if "/gpu/" in str(item.path):
            item.add_marker(pytest.mark.gpu)
            if not gpus:
                item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU: NVML finds no device on this machine"))


@pytest.fixture
def gpus() -> list[str]:
    return visible_gpus()
