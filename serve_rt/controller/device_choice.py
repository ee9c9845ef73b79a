"""Which devices of a node a replica gets: by share, by memory, or whole. Pure; called by `placement`.

A share fits one device or none (0.5 free on two devices does not hold 0.8) and goes to the fullest device that holds
it; whole GPUs need devices nobody uses. `gpu_memory` must be free on each of the devices, and alone it chooses one:
the device with the least memory that is enough, if it is not wholly given away.
"""

from __future__ import annotations

from collections.abc import Iterator

from serve_rt.controller.room import WHOLE, NodeRoom
from serve_rt.model.resources import DeviceShare, Resources


def choose_devices(node: NodeRoom, asked: Resources) -> tuple[DeviceShare, ...] | None:
    """None: it does not fit. Ties go to the device listed first."""
    if not asked.milli_gpu and not asked.gpu_memory_bytes:
        return ()
    if asked.milli_gpu >= WHOLE:
        return _whole(node, asked)
    fitting = [
        (milli, node.gpu_memory[uuid], order, uuid)
        for order, (uuid, milli) in enumerate(node.devices.items())
        if milli >= max(1, asked.milli_gpu) and node.gpu_memory[uuid] >= asked.gpu_memory_bytes
    ]
    if not fitting:
        return None
    by_memory = not asked.milli_gpu
    chosen = min(fitting, key=lambda one: (one[1], one[2]) if by_memory else (one[0], one[2]))
    return (DeviceShare(chosen[3], asked.milli_gpu, asked.gpu_memory_bytes),)


def _whole(node: NodeRoom, asked: Resources) -> tuple[DeviceShare, ...] | None:
    count, rest = divmod(asked.milli_gpu, WHOLE)
    unused = [uuid for uuid in _unused(node) if node.gpu_memory[uuid] >= asked.gpu_memory_bytes]
    if rest or len(unused) < count:
        return None
    return tuple(DeviceShare(uuid, WHOLE, asked.gpu_memory_bytes) for uuid in unused[:count])


def _unused(node: NodeRoom) -> Iterator[str]:
    total = {gpu.uuid: gpu.memory_bytes for gpu in node.record.resources.gpus}
    return (uuid for uuid, milli in node.devices.items() if milli == WHOLE and node.gpu_memory[uuid] == total[uuid])


def device_lack(node: NodeRoom, asked: Resources) -> str:
    if not node.devices:
        return "has no GPU"
    if asked.milli_gpu >= WHOLE:
        words = f"has {len(list(_unused(node)))} of {len(node.devices)} GPUs unused"
    elif asked.milli_gpu:
        words = f"has {max(0, max(node.devices.values())) / 1000:g} GPU free on its emptiest device"
    else:
        words = "has no GPU with so much memory free"
    if asked.gpu_memory_bytes:
        words += f" and {max(0, max(node.gpu_memory.values())) >> 20} MiB of GPU memory free on one device"
    return words
