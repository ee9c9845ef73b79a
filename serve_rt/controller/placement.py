"""Where a replica goes: filter the nodes, score what is left, pick. Called by `deployment` for its missing replicas.

CPU is a share: while a new version replaces an old one on a node it may borrow the old one's (`lent`); and where nobody
said how much a replica takes, the replicas that were asked for outright (`owed`, not those the autoscaler adds) start
on a machine whose CPUs are all taken, too: an application of five deployments runs on two cores. Memory, devices
(`device_choice`) and custom resources are never promised twice. With failure domains the one with the fewest replicas
comes first; more than its part it gets only where nothing else is left, and with `spread_hard` not at all.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from serve_rt.controller.device_choice import choose_devices, device_lack
from serve_rt.controller.node_labels import fits, lacking
from serve_rt.controller.room import NodeRoom, Room
from serve_rt.model.ids import DeploymentKey, NodeId
from serve_rt.model.node import NodeRecord
from serve_rt.model.replica import Assignment, Goal
from serve_rt.model.resources import DeviceShare, Resources
from serve_rt.model.spec import DeploymentOptions, DeploymentSpec, Placement

MOST_SHARED_CPU = 16_000
"""Milli-CPU that replicas with the default share may fill on a node with fewer than a quarter of them."""


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
        self,
        room: Room,
        key: DeploymentKey,
        spec: DeploymentSpec,
        lent: Mapping[NodeId, int] | None = None,
        domains: Domains | None = None,
        owed: int = 0,
    ) -> None:
        self._room, self._key, self._spec, self._lent = room, key, spec, lent or {}
        self._owed = owed
        self._domains = domains or Domains()
        self._heap = [(self._score(node_id), node_id) for node_id in room if self._fits(node_id)]
        heapq.heapify(self._heap)

    def next(self) -> Placed | Misfit:
        while self._heap:
            score, node_id = heapq.heappop(self._heap)
            now = self._score(node_id)
            if now == score and self._fits(node_id):
                return self._take(node_id)
            if self._fits(node_id):  # another node of its domain got one since
                heapq.heappush(self._heap, (now, node_id))
        found = {node: list(self._lacks(node)) for node in self._room}
        return Misfit(_explain(self._room, self._key, self._spec, found, self._domains))

    def _take(self, node_id: NodeId) -> Placed:
        node, asked = self._room[node_id], self._spec.options.resources
        devices = choose_devices(node, asked)
        assert devices is not None, "lacks() let a node through that has no device"
        node.take(self._key, asked, devices)
        self._domains.take(node)
        self._owed -= 1
        if self._fits(node_id):
            heapq.heappush(self._heap, (self._score(node_id), node_id))
        return Placed(node_id, devices)

    def _score(self, node_id: NodeId) -> tuple[int, ...]:
        node = self._room[node_id]
        return (self._domains.is_last_choice(node), self._domains.held(node), *_score(node, self._key, self._spec))

    def _fits(self, node_id: NodeId) -> bool:
        return next(self._lacks(node_id), None) is None

    def _lacks(self, node_id: NodeId) -> Iterator[str]:
        node = self._room[node_id]
        yield from lacks(node, self._key, self._spec, self._lent.get(node_id, 0), owed=self._owed > 0)
        if lack := self._domains.lack(node):
            yield lack


@dataclass(slots=True)
class Domains:
    """Failure domains: the nodes' values of one label, with the replicas each holds. Without a label there are none."""

    label: str = ""
    most: int = 0
    """So many a domain may hold."""
    hard: bool = False
    counts: Counter[str] = field(default_factory=Counter)

    @staticmethod
    def of(spec: DeploymentSpec, wanted: int, nodes: Iterable[NodeRoom]) -> Domains:
        """`nodes`: where the replicas are that stay, each as often as it holds one."""
        options = spec.options
        domains = Domains(
            options.spread_label, math.ceil(wanted / max(1, options.spread_min_domains)), options.spread_hard
        )
        for node in nodes:
            domains.take(node)
        return domains

    def take(self, node: NodeRoom) -> None:
        if self.label:
            self.counts[node.record.labels.get(self.label, "")] += 1

    def held(self, node: NodeRoom) -> int:
        return self.counts[node.record.labels.get(self.label, "")] if self.label else 0

    def is_last_choice(self, node: NodeRoom) -> bool:
        """It has its part already, or is in no domain at all."""
        return bool(self.label) and (self.label not in node.record.labels or self.held(node) >= self.most)

    def lack(self, node: NodeRoom) -> str:
        if not self.label or not self.hard:
            return ""
        domain = node.record.labels.get(self.label)
        if domain is None:
            return f"has no label {self.label}, over which the replicas are spread"
        if self.counts[domain] >= self.most:
            return f"is in {self.label}={domain}, which has its {self.most} replicas already (min_domains)"
        return ""


def crowded(options: DeploymentOptions, assignments: Iterable[Assignment], nodes: Mapping[NodeId, NodeRecord]) -> str:
    """How a floor is broken that placement may break; "" when it is kept."""
    label, least = options.spread_label, options.spread_min_domains
    placed = [a.node_id for a in assignments if a.goal is Goal.RUN and a.node_id in nodes]
    if not label or least <= 1 or not placed:
        return ""
    held = Counter(nodes[node].labels.get(label, "") for node in placed)
    domain, count = max(sorted(held.items()), key=lambda item: item[1])
    if count <= math.ceil(len(placed) / least):
        return ""
    return (
        f"The spread is not kept: {label}={domain} has {count} of {len(placed)} replicas, min_domains={least}. "
        f"Replicas started later go to another {label} first; what runs is not moved."
    )


def lacks(
    node: NodeRoom, key: DeploymentKey, spec: DeploymentSpec, lent_cpu: int = 0, *, owed: bool = False
) -> Iterator[str]:
    """What keeps one more replica off this node; nothing when it fits."""
    options, asked = spec.options, spec.options.resources
    if not node.open:
        yield "is cordoned or draining"
    for label, selector in options.labels.items():
        if not fits(selector, node.record.labels.get(label)):
            yield lacking(label, selector, node.record.labels.get(label))
    limit = options.max_replicas_per_node
    if limit is not None and node.replicas[key] >= limit:
        yield f"already has max_replicas_per_node={limit}"
    if node.milli_cpu + lent_cpu < asked.milli_cpu and not _shares_cpu(node, asked, lent_cpu, owed):
        yield f"has {_milli(max(0, node.milli_cpu))} CPU free"
    if node.memory_bytes < asked.memory_bytes:
        yield f"has {max(0, node.memory_bytes) >> 20} MiB memory free"
    for name, amount in asked.custom.items():
        if node.custom.get(name, 0) < amount:
            yield f"has {_milli(max(0, node.custom.get(name, 0)))} {name} free"
    if choose_devices(node, asked) is None:
        yield device_lack(node, asked)


def _shares_cpu(node: NodeRoom, asked: Resources, lent_cpu: int, owed: bool) -> bool:
    """Where all CPU is taken: who asks for it gets what nobody asked for, and who does not ask is let in as well."""
    if not asked.cpu_implied:
        return node.milli_cpu + node.implied_cpu + lent_cpu >= asked.milli_cpu
    total = node.record.resources.milli_cpu
    return owed and total > 0 and total - node.milli_cpu + asked.milli_cpu <= max(4 * total, MOST_SHARED_CPU)


def _score(node: NodeRoom, key: DeploymentKey, spec: DeploymentSpec) -> tuple[int, ...]:
    """Smaller is better. Borrowing CPU comes last, whatever the policy."""
    borrows = int(node.milli_cpu < spec.options.resources.milli_cpu)
    left = 1000 * node.milli_cpu // max(1, node.record.resources.milli_cpu)
    others = node.count - node.replicas[key]
    if spec.options.placement is Placement.PACK:
        return (borrows, left, -node.replicas[key])
    return (borrows, node.replicas[key], -left, others)


# --- the reason ---------------------------------------------------------------------------------------------------


def _explain(
    room: Room, key: DeploymentKey, spec: DeploymentSpec, found: Mapping[NodeId, list[str]], domains: Domains
) -> str:
    needs = f"a replica needs {_needs(spec)}"
    if not room:
        return f"{needs}; no node is registered: start serve-agent on one"
    nearest = min(room, key=lambda node: (len(found[node]), node))
    missing = " and ".join(found[nearest])
    if all(domains.lack(room[node]) for node in room):
        return (
            f"{needs}; of {len(room)} nodes the nearest, {nearest}, {missing}. It fits with a node that has another "
            f"{domains.label}, with fewer min_domains, or with when_unsatisfiable='ScheduleAnyway'."
        )
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
    default = " (the default; ray_actor_options={'num_cpus': ...} asks for another share)" if asked.cpu_implied else ""
    parts = [f"{_milli(asked.milli_cpu)} CPU{default}"] if asked.milli_cpu else []
    parts += [f"{asked.memory_bytes >> 20} MiB memory"] if asked.memory_bytes else []
    parts += [f"{_milli(asked.milli_gpu)} GPU"] if asked.milli_gpu else []
    parts += [f"{asked.gpu_memory_bytes >> 20} MiB GPU memory"] if asked.gpu_memory_bytes else []
    parts += [f"{_milli(amount)} {name}" for name, amount in asked.custom.items()]
    parts += [f"label {label}={value}" for label, value in spec.options.labels.items()]
    return ", ".join(parts) or "a place"


def _milli(amount: int) -> str:
    return f"{amount / 1000:g}"
