"""The GPUs of this machine by UUID, as far as CUDA_VISIBLE_DEVICES lets this agent see them.

NVML knows nothing of CUDA_VISIBLE_DEVICES and orders by PCI address, so the agent intersects by itself, by the rules of
the CUDA guide: entries are indices, UUIDs or unique prefixes of one, and the first invalid entry hides all after it.
A MIG slice is a device of its own. `--num-gpus N` on a machine without so many declares fake ones.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from serve_rt.model.ids import NodeId
from serve_rt.model.resources import DeviceShare, Gpu

log = logging.getLogger(__name__)
FAKE_MEMORY_BYTES = 16 << 30
FAKE_PREFIX = "FAKE-"


@dataclass(frozen=True, slots=True)
class DeviceUse:
    """One device at one moment."""

    used_bytes: int
    pids: frozenset[int]
    """Of processes that compute on it, as far as this PID namespace knows them."""


def discover(environ: dict[str, str] | None = None) -> tuple[Gpu, ...]:
    """All visible devices; empty where there is no NVIDIA driver."""
    value = (os.environ if environ is None else environ).get("CUDA_VISIBLE_DEVICES")
    if value is not None and not value.strip():
        return ()
    if not os.path.exists("/dev/nvidiactl") and not os.path.exists("/proc/driver/nvidia"):
        return ()  # loading NVML costs 10 ms and can only say no
    found = _nvml_devices()
    return found if value is None else visible(found, value)


def visible(devices: Sequence[Gpu], value: str) -> tuple[Gpu, ...]:
    """What CUDA would show of `devices` (in PCI order) for CUDA_VISIBLE_DEVICES=`value`."""
    chosen: list[Gpu] = []
    for entry in (part.strip() for part in value.split(",")):
        device = _resolve(devices, entry)
        if device is None or device in chosen:  # CUDA: an invalid or repeated entry hides itself and all after it
            break
        chosen.append(device)
    return tuple(chosen)


def _resolve(devices: Sequence[Gpu], entry: str) -> Gpu | None:
    if entry.isdigit():
        whole = [device for device in devices if device.index == int(entry)]
        return whole[0] if whole else None
    if not entry.startswith(("GPU-", "MIG-")):
        return None
    matches = [device for device in devices if device.uuid.startswith(entry)]
    return matches[0] if len(matches) == 1 else None


def fake_gpus(node: NodeId, count: int) -> tuple[Gpu, ...]:
    return tuple(
        Gpu(uuid=f"{FAKE_PREFIX}{node}-{i}", index=i, name="fake", memory_bytes=FAKE_MEMORY_BYTES, fake=True)
        for i in range(count)
    )


def device_env(devices: Sequence[DeviceShare]) -> dict[str, str]:
    """The environment that shows a replica its devices and no other: none at all for `num_gpus=0` or fake ones."""
    real = [share.uuid for share in devices if not share.uuid.startswith(FAKE_PREFIX)]
    env = {"CUDA_VISIBLE_DEVICES": ",".join(real), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    if devices:
        env["SERVE_GPU_FRACTION"] = f"{max(share.milli for share in devices) / 1000:g}"
        if memory := min(share.memory_bytes for share in devices):
            env["SERVE_GPU_MEMORY_MIB"] = str(memory >> 20)
        env["SERVE_GPU_UUIDS"] = ",".join(share.uuid for share in devices)
    return env


def read_use(uuid: str) -> DeviceUse | None:
    """What the driver says of a device; None when it does not answer. Blocks for some milliseconds."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        used = int(pynvml.nvmlDeviceGetMemoryInfo(handle).used)
        return DeviceUse(used, frozenset(int(p.pid) for p in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)))
    except pynvml.NVMLError as error:
        log.warning("cannot ask the driver about %s: %s", uuid, error, extra={"action": "gpu_silent"})
        return None
    finally:
        pynvml.nvmlShutdown()


def _nvml_devices() -> tuple[Gpu, ...]:
    import pynvml  # lazily: hosts without a GPU never load it

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        log.info("no NVIDIA driver: %s", error, extra={"action": "no_gpus"})
        return ()
    try:
        found: list[Gpu] = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            found += _with_slices(pynvml, index)
        return tuple(found)
    except pynvml.NVMLError as error:
        log.warning("cannot list the GPUs: %s", error, extra={"action": "gpu_discovery_failed"})
        return ()
    finally:
        pynvml.nvmlShutdown()


def _with_slices(nvml: Any, index: int) -> list[Gpu]:  # Any: pynvml has no types
    """The device, or its MIG slices when it is cut into some."""
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    slices = [_gpu(nvml, mig, index) for mig in _mig_handles(nvml, handle)]
    return slices or [_gpu(nvml, handle, index)]


def _mig_handles(nvml: Any, handle: Any) -> list[Any]:
    try:
        current, _pending = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError:
        return []
    if not current:
        return []
    handles = []
    for i in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            handles.append(nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, i))
        except nvml.NVMLError:  # numbers of slices may have holes
            continue
    return handles


def _gpu(nvml: Any, handle: Any, index: int) -> Gpu:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    return Gpu(str(nvml.nvmlDeviceGetUUID(handle)), index, str(nvml.nvmlDeviceGetName(handle)), int(memory.total))
