"""Where a replica goes: filter the nodes, score what is left, pick. Called by `deployment` for its missing replicas.

CPU is a share: while a new version replaces an old one on a node it may borrow the old one's (`lent`). Memory, devices
and custom resources are never promised twice. A share of a GPU fits one device or none (0.5 free on two devices does
not hold 0.8) and goes to the fullest device that holds it; whole GPUs need devices nobody uses.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from serve_rt.controller.room import WHOLE, NodeRoom, Room
from serve_rt.model.ids import DeploymentKey, NodeId
from serve_rt.model.resources import DeviceShare, Resources
from serve_rt.model.spec import DeploymentSpec, Placement


@dataclass(frozen=True, slots=True)
class Placed:
    node_id: NodeId
    devices: tuple[DeviceShare, ...]


@dataclass(frozen=True, slots=True)
class Misfit:
    """No node holds the replica; `reason` says what is missing where, and what would make it fit."""

    reason: str


class Placing:
    """Places for the replicas of one deployment, one after another; each is taken from the room as it is given.

    The nodes are looked at once and then only the one that was chosen, so a deployment of n replicas costs
    nodes + n·log(nodes). Nobody else may take room while it is in use.
    """

    def __init__(
        self, room: Room, key: DeploymentKey, spec: DeploymentSpec, lent: Mapping[NodeId, int] | None = None
    ) -> None:
        self._room, self._key, self._spec, self._lent = room, key, spec, lent or {}
        self._heap = [(_score(node, key, spec), node_id) for node_id, node in room.items() if self._fits(node_id)]
        heapq.heapify(self._heap)

    def next(self) -> Placed | Misfit:
        if not self._heap:
            return Misfit(_explain(self._room, self._key, self._spec, self._lent))
        _, node_id = heapq.heappop(self._heap)
        node, asked = self._room[node_id], self._spec.options.resources
        devices = pick_devices(node.devices, asked.milli_gpu)
        assert devices is not None, "lacks() let a node through that has no device"
        node.take(self._key, asked, devices)
        if self._fits(node_id):
            heapq.heappush(self._heap, (_score(node, self._key, self._spec), node_id))
        return Placed(node_id, devices)

    def _fits(self, node_id: NodeId) -> bool:
        lacking = lacks(self._room[node_id], self._key, self._spec, self._lent.get(node_id, 0))
        return next(lacking, None) is None


def pick_devices(free: Mapping[str, int], milli_gpu: int) -> tuple[DeviceShare, ...] | None:
    """Devices for `milli_gpu`, or None. Ties go to the device listed first."""
    if milli_gpu == 0:
        return ()
    if milli_gpu >= WHOLE:
        unused = [uuid for uuid, milli in free.items() if milli == WHOLE]
        whole, rest = divmod(milli_gpu, WHOLE)
        if rest or len(unused) < whole:
            return None
        return tuple(DeviceShare(uuid, WHOLE) for uuid in unused[:whole])
    fitting = [(milli, uuid) for uuid, milli in free.items() if milli >= milli_gpu]
    if not fitting:
        return None
    fullest = min(milli for milli, _ in fitting)
    return (DeviceShare(next(uuid for milli, uuid in fitting if milli == fullest), milli_gpu),)


def lacks(node: NodeRoom, key: DeploymentKey, spec: DeploymentSpec, lent_cpu: int = 0) -> Iterator[str]:
    """What keeps one more replica off this node; nothing when it fits."""
    options, asked = spec.options, spec.options.resources
    if not node.open:
        yield "is cordoned or draining"
    for label, value in options.labels.items():
        if node.record.labels.get(label) != value:
            yield f"has no label {label}={value}"
    limit = options.max_replicas_per_node
    if limit is not None and node.replicas[key] >= limit:
        yield f"already has max_replicas_per_node={limit}"
    if node.milli_cpu + lent_cpu < asked.milli_cpu:
        yield f"has {_milli(max(0, node.milli_cpu))} CPU free"
    if node.memory_bytes < asked.memory_bytes:
        yield f"has {max(0, node.memory_bytes) >> 20} MiB memory free"
    for name, amount in asked.custom.items():
        if node.custom.get(name, 0) < amount:
            yield f"has {_milli(max(0, node.custom.get(name, 0)))} {name} free"
    if pick_devices(node.devices, asked.milli_gpu) is None:
        yield _device_lack(node, asked.milli_gpu)


def _score(node: NodeRoom, key: DeploymentKey, spec: DeploymentSpec) -> tuple[int, ...]:
    """Smaller is better. Borrowing CPU comes last, whatever the policy."""
    borrows = int(node.milli_cpu < spec.options.resources.milli_cpu)
    left = 1000 * node.milli_cpu // max(1, node.record.resources.milli_cpu)
    others = node.count - node.replicas[key]
    if spec.options.placement is Placement.PACK:
        return (borrows, left, -node.replicas[key])
    return (borrows, node.replicas[key], -left, others)


# --- the reason ---------------------------------------------------------------------------------------------------


def _explain(room: Room, key: DeploymentKey, spec: DeploymentSpec, lent: Mapping[NodeId, int]) -> str:
    needs = f"a replica needs {_needs(spec)}"
    if not room:
        return f"{needs}; no node is registered: start serve-agent on one"
    nearest = min(room, key=lambda node: (sum(1 for _ in lacks(room[node], key, spec, lent.get(node, 0))), node))
    missing = " and ".join(lacks(room[nearest], key, spec, lent.get(nearest, 0)))
    text = f"{needs}; of {len(room)} nodes the nearest, {nearest}, {missing}"
    return f"{text}. {_remedy(room, key, spec)}"


def _remedy(room: Room, key: DeploymentKey, spec: DeploymentSpec) -> str:
    """What would make it fit: waiting or freeing helps only where the whole node would have been enough."""
    fits_empty = any(
        next(lacks(NodeRoom.empty(node.record, takes=True), key, spec), None) is None for node in room.values()
    )
    if fits_empty:
        return "It fits when other replicas end there or are made smaller, or with one more such node."
    return "No node has that much even when empty: lower what the deployment asks for, or add a node that has it."


def _needs(spec: DeploymentSpec) -> str:
    asked: Resources = spec.options.resources
    parts = [f"{_milli(asked.milli_cpu)} CPU"] if asked.milli_cpu else []
    parts += [f"{asked.memory_bytes >> 20} MiB memory"] if asked.memory_bytes else []
    parts += [f"{_milli(asked.milli_gpu)} GPU"] if asked.milli_gpu else []
    parts += [f"{_milli(amount)} {name}" for name, amount in asked.custom.items()]
    parts += [f"label {label}={value}" for label, value in spec.options.labels.items()]
    return ", ".join(parts) or "a place"


def _device_lack(node: NodeRoom, milli_gpu: int) -> str:
    if not node.devices:
        return "has no GPU"
    if milli_gpu >= WHOLE:
        unused = sum(1 for milli in node.devices.values() if milli == WHOLE)
        return f"has {unused} of {len(node.devices)} GPUs unused"
    return f"has {_milli(max(0, max(node.devices.values())))} GPU free on its emptiest device"


def _milli(amount: int) -> str:
    return f"{amount / 1000:g}"
