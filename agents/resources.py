"""What this machine has: CPUs and memory as the kernel (and its cgroup) grants them, GPUs from `gpus`.

Called once at start by `agent`. Command-line amounts win over what is found.
"""

from __future__ import annotations

import os
from pathlib import Path

from serve_rt.agents.gpus import discover, fake_gpus
from serve_rt.agents.settings import Settings
from serve_rt.model.ids import NodeId
from serve_rt.model.resources import Gpu, NodeResources

_CGROUP = Path("/sys/fs/cgroup")


def node_resources(settings: Settings, node: NodeId) -> NodeResources:
    return NodeResources(
        milli_cpu=round(1000 * (settings.num_cpus if settings.num_cpus is not None else available_cpus())),
        memory_bytes=settings.memory_bytes if settings.memory_bytes is not None else available_memory_bytes(),
        gpus=_gpus(settings, node),
        custom=settings.custom,
    )


def _gpus(settings: Settings, node: NodeId) -> tuple[Gpu, ...]:
    if settings.num_gpus is None:
        return discover()
    found = discover() if settings.num_gpus else ()
    if len(found) >= settings.num_gpus:
        return found[: settings.num_gpus]
    return fake_gpus(node, settings.num_gpus)


def available_cpus() -> float:
    """CPUs this process may use: its affinity, or its cgroup's quota if that is less."""
    affinity = float(len(os.sched_getaffinity(0)))
    quota = _read(_CGROUP / "cpu.max").split()
    if len(quota) == 2 and quota[0].isdigit() and quota[1].isdigit():
        return min(affinity, int(quota[0]) / int(quota[1]))
    return affinity


def available_memory_bytes() -> int:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _read(_CGROUP / "memory.max").strip()
    return min(total, int(limit)) if limit.isdigit() else total


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
