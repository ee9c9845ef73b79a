"""What machines have and replicas ask for. All amounts are integers: milli-CPU, bytes, milli-GPU per device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Gpu:
    """One device (a MIG slice counts as a device); `uuid` is its only identity."""

    uuid: str
    index: int
    name: str
    memory_bytes: int
    fake: bool = False


@dataclass(frozen=True, slots=True)
class DeviceShare:
    """A part of one device: 1000 milli is the whole device."""

    uuid: str
    milli: int
    memory_bytes: int = 0
    """Of the device's own memory, where `gpu_memory` was asked for."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What one replica asks for."""

    milli_cpu: int = 1000
    memory_bytes: int = 0
    milli_gpu: int = 0
    custom: Mapping[str, int] = field(default_factory=dict)
    """Milli-units by resource name."""
    gpu_memory_bytes: int = 0
    """On each of its devices; alone, it takes a share of one device by its memory."""
    cpu_implied: bool = False
    """It is the default, nobody asked for so much CPU: it guides placement, and keeps no application from starting."""


@dataclass(frozen=True, slots=True)
class NodeResources:
    """What one node has in total."""

    milli_cpu: int
    memory_bytes: int
    gpus: tuple[Gpu, ...] = ()
    custom: Mapping[str, int] = field(default_factory=dict)
