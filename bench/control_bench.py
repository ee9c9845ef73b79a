"""What deciding costs the leader as the cluster grows: the real reconcile on values, and the real store to begin from.

No agents and no requests: passes over 1,000 nodes and 10,000 replicas, in CPU time of one core, so that other work on
the machine does not count.
"""

from __future__ import annotations

import asyncio
import csv
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.big_cluster import KEYS, SETTINGS, BigCluster, application, ready
from serve_rt.controller.reconcile import look_again
from serve_rt.controller.resting import Past
from serve_rt.controller.status import build_status
from serve_rt.etcd import EtcdClient
from serve_rt.etcd.values import Delete, Put
from serve_rt.model.ids import AppName
from serve_rt.store.mirror import Mirror
from tests.cluster.etcd_server import EtcdServer

SIZES = (100, 300, 1_000, 3_000, 10_000)
"""Replicas; a tenth as many nodes, a hundredth as many applications."""
OPS_PER_TXN = 100


@dataclass(frozen=True, slots=True)
class Cost:
    """Milliseconds of CPU of one pass; the slowest of the rounds, which for a few dozen stands for the p99."""

    replicas: int
    everything: float
    """A pass without a past."""
    at_rest: float
    """A pass when nothing has happened."""
    one_report: float
    """A replica came back as another incarnation."""
    one_more: float
    """An application is asked for one replica more: the pass that finds the place for it among all nodes."""
    status: float
    """`serve status`, as an agent answers it."""


@dataclass(frozen=True, slots=True)
class Takeover:
    records: int
    load_s: float
    """From nothing to a synced mirror, over the real client from a real etcd."""
    decide_s: float
    """The first pass over everything."""


def costs(rounds: int) -> list[Cost]:
    return [_cost(BigCluster(max(1, size // 10), max(1, size // 100), 100), size, rounds) for size in SIZES]


def _cost(big: BigCluster, size: int, rounds: int) -> Cost:
    def look(past: Past | None) -> Past:
        return look_again(past, big.cluster, big.now, SETTINGS).past

    past = look(None)
    some = next(iter(big.cluster.assignments.values()))
    return Cost(
        size,
        everything=_slowest(rounds, lambda _: None, lambda: look(None)),
        at_rest=_slowest(rounds, lambda _: None, lambda: look(past)),
        one_report=_after_each(
            big, rounds, lambda n: {KEYS.observed(some.node_id, some.replica_id): ready(some, 2 + n)}
        ),
        one_more=_after_each(big, rounds, lambda n: {KEYS.app(AppName("a000")): application(0, 101 + n)}),
        status=_slowest(rounds, lambda _: None, lambda: build_status(big.cluster, 0.0, 0.0)),
    )


def _after_each(big: BigCluster, rounds: int, change: Callable[[int], dict[str, object]]) -> float:
    """The pass right after each change; what it asks for is then carried out, uncounted."""
    past = look_again(None, big.cluster, big.now, SETTINGS).past
    slowest = 0.0
    for number in range(rounds):
        big.put(change(number))
        began = time.process_time()
        looked = look_again(past, big.cluster, big.now, SETTINGS)
        slowest = max(slowest, time.process_time() - began)
        while looked.plan:
            big.obey(looked.plan.actions)
            looked = look_again(looked.past, big.cluster, big.now, SETTINGS)
        past = looked.past
    return slowest * 1000


def _slowest(rounds: int, before: Callable[[int], object], step: Callable[[], object]) -> float:
    slowest = 0.0
    for number in range(rounds):
        before(number)
        began = time.process_time()
        step()
        slowest = max(slowest, time.process_time() - began)
    return slowest * 1000


def takeover() -> Takeover:
    """A new leader's first seconds at the largest size, but for the reports of agents (waited for at most 1.5 s)."""
    big = BigCluster(SIZES[-1] // 10, SIZES[-1] // 100, 100)
    etcd = EtcdServer().start()
    try:
        return asyncio.run(_take_over(big, etcd.endpoint))
    finally:
        etcd.close()


async def _take_over(big: BigCluster, endpoint: str) -> Takeover:
    store = EtcdClient([endpoint])
    ops: list[Put | Delete] = [Put(key, data) for key, data in big.records.items()]
    for start in range(0, len(ops), OPS_PER_TXN):
        await store.txn([], ops[start : start + OPS_PER_TXN])
    mirror = Mirror(store, KEYS)
    began = time.monotonic()
    following = asyncio.create_task(mirror.run(), name="mirror")
    try:
        await asyncio.wait_for(mirror.synced.wait(), 60)
        loaded = time.monotonic()
        look_again(None, mirror.cluster, 0.0, SETTINGS)
        decided = time.monotonic()
        assert len(mirror.cluster.assignments) == len(mirror.cluster.observed) == SIZES[-1], "all of it was read"
        return Takeover(len(big.records), loaded - began, decided - loaded)
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await store.close()


# --- the picture ----------------------------------------------------------------------------------------------------

_LINES = (("everything", "#c0392b"), ("one_more", "#8e44ad"), ("one_report", "#2471a3"), ("at_rest", "#1e8449"))
_WIDTH, _HEIGHT, _EDGE = 640, 360, 60


def write_plot(measured: Sequence[Cost], folder: Path) -> Path:
    """`control.csv` and `control.svg`: milliseconds against replicas, both axes logarithmic."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "control.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["replicas", *(name for name, _ in _LINES), "status"])
        rows.writerows(
            [c.replicas, *(f"{getattr(c, name):.2f}" for name, _ in _LINES), f"{c.status:.2f}"] for c in measured
        )
    path = folder / "control.svg"
    path.write_text(_svg(measured))
    return path


def _svg(measured: Sequence[Cost]) -> str:
    from math import log10

    def x(replicas: float) -> float:
        return _EDGE + (log10(replicas) - 2) / 2 * (_WIDTH - 2 * _EDGE)

    def y(ms: float) -> float:
        return _HEIGHT - _EDGE - (log10(max(ms, 0.1)) + 1) / 4 * (_HEIGHT - 2 * _EDGE)

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" font-family="sans-serif">']
    parts.append(f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>')
    for ms in (0.1, 1, 10, 100, 1000):
        parts.append(f'<path d="M{_EDGE} {y(ms):.0f}H{_WIDTH - _EDGE}" stroke="#ddd"/>')
        parts.append(f'<text x="{_EDGE - 8}" y="{y(ms) + 4:.0f}" text-anchor="end" font-size="11">{ms:g} ms</text>')
    for replicas in (100, 1_000, 10_000):
        place = f'x="{x(replicas):.0f}" y="{_HEIGHT - _EDGE + 18}"'
        parts.append(f'<text {place} text-anchor="middle" font-size="11">{replicas:,} replicas</text>')
    for number, (name, colour) in enumerate(_LINES):
        points = " ".join(f"{x(c.replicas):.1f},{y(getattr(c, name)):.1f}" for c in measured)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        label = name.replace("_", " ")
        parts.append(f'<text x="{_EDGE + 10}" y="{24 + 14 * number}" font-size="12" fill="{colour}">{label}</text>')
    return "\n".join([*parts, "</svg>"])
