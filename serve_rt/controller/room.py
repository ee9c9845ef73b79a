"""How much of each node is free while a plan is made: a ledger of milli-CPU, memory, milli-GPU per device.

Built by `reconcile` from the cluster, lowered by `take` for each replica the plan creates. A device is free only when
neither an assignment nor an observed record names it: a drained replica's GPU is not offered again before its agent
says that the process is gone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from serve_rt.controller.census import Census, Member, NodeStanding
from serve_rt.model.cluster import Cluster
from serve_rt.model.ids import DeploymentKey, NodeId
from serve_rt.model.node import NodeMark, NodeRecord
from serve_rt.model.resources import DeviceShare, Resources

WHOLE = 1000
_NOTHING = Resources(milli_cpu=0)
_TAKES = frozenset({NodeMark.SCHEDULABLE, NodeMark.FORGOTTEN})  # forgotten, and here again


@dataclass(slots=True)
class NodeRoom:
    """What is left of one node. The one mutable value of a plan; it never leaves `reconcile`."""

    record: NodeRecord
    milli_cpu: int
    memory_bytes: int
    devices: dict[str, int]
    """Free milli-GPU by UUID."""
    gpu_memory: dict[str, int]
    """Free bytes of each device, less what replicas asked for as `gpu_memory`."""
    custom: dict[str, int]
    open: bool
    """Takes new replicas: registered, neither cordoned nor draining."""
    replicas: Counter[DeploymentKey] = field(default_factory=Counter)
    count: int = 0
    """Of all replicas."""
    implied_cpu: int = 0
    """Of what is taken, what nobody asked for: who does ask for CPU may have it."""

    @staticmethod
    def empty(record: NodeRecord, *, takes: bool) -> NodeRoom:
        total = record.resources
        good = [gpu for gpu in total.gpus if gpu.uuid not in record.quarantined]
        devices, memory = {gpu.uuid: WHOLE for gpu in good}, {gpu.uuid: gpu.memory_bytes for gpu in good}
        return NodeRoom(record, total.milli_cpu, total.memory_bytes, devices, memory, dict(total.custom), takes)

    def copy(self) -> NodeRoom:
        """To try something out."""
        return replace(
            self,
            devices=dict(self.devices),
            gpu_memory=dict(self.gpu_memory),
            custom=dict(self.custom),
            replicas=Counter(self.replicas),
        )

    def take(self, key: DeploymentKey, asked: Resources, devices: tuple[DeviceShare, ...], sign: int = 1) -> None:
        self.milli_cpu -= sign * asked.milli_cpu
        self.implied_cpu += sign * asked.milli_cpu if asked.cpu_implied else 0
        self.memory_bytes -= sign * asked.memory_bytes
        for name, amount in asked.custom.items():
            self.custom[name] = self.custom.get(name, 0) - sign * amount
        for share in devices:
            if share.uuid in self.devices:  # a device may have gone from the node since
                self.devices[share.uuid] -= sign * share.milli
                self.gpu_memory[share.uuid] -= sign * share.memory_bytes
        self.replicas[key] += sign
        self.count += sign

    def give(self, key: DeploymentKey, asked: Resources, devices: tuple[DeviceShare, ...]) -> None:
        self.take(key, asked, devices, sign=-1)


Room = Mapping[NodeId, NodeRoom]


def measure_room(cluster: Cluster, census: Census) -> dict[NodeId, NodeRoom]:
    """The room of all registered nodes, less everything assigned to or observed on them."""
    room = {node: NodeRoom.empty(record, takes=cluster.mark(node) in _TAKES) for node, record in cluster.nodes.items()}
    for key, members in census.members.items():
        for member in members:
            if member.standing is NodeStanding.LIVE:
                room[member.node_id].take(key, asked_by(member), devices_of(member))
    return room


def asked_by(member: Member) -> Resources:
    return member.assignment.spec.options.resources if member.assignment is not None else _NOTHING


def devices_of(member: Member) -> tuple[DeviceShare, ...]:
    """Every device that the leader's word or the agent's report names, the larger share of the two."""
    assigned = member.assignment.devices if member.assignment is not None else ()
    reported = member.observed.devices if member.observed is not None else ()
    if not reported or reported == assigned:
        return assigned
    shares: dict[str, DeviceShare] = {}
    for share in (*assigned, *reported):
        known = shares.get(share.uuid, DeviceShare(share.uuid, 0))
        milli, memory = max(known.milli, share.milli), max(known.memory_bytes, share.memory_bytes)
        shares[share.uuid] = DeviceShare(share.uuid, milli, memory)
    return tuple(shares.values())
