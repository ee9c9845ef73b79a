"""Requests cut at random moments on their way through three deployments and a batch: nothing stays behind."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cluster.conftest import ClusterFactory
from tests.cluster.harness import LocalCluster
from tests.cluster.in_flight import levels, settled
from tests.cluster.processes import eventually
from tests.load.cutter import Cutter

CLIENTS = 64
LONGEST_S = 0.12
"""A cut comes anywhere within this time: about as long as a request under this load takes."""


def test_requests_cut_at_random_moments_leave_nothing_in_flight(cluster_of: ClusterFactory) -> None:
    _cut_chain(cluster_of(), 3000)


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_100_000_requests_cut_at_random_moments(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of()
    for seed in range(10):
        _cut_chain(cluster, 10_000, seed=seed, deploy=seed == 0)


def _all_are_busy(cluster: LocalCluster) -> bool:
    return all(level.busy for level in levels(cluster))


def _cut_chain(cluster: LocalCluster, total: int, *, seed: int = 1, deploy: bool = True) -> None:
    if deploy:
        cluster.deploy("chain")
    port = cluster.node.http_port
    left_before = cluster.node.json("/-/counters")["client_left"]
    began_s = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        storm = pool.submit(asyncio.run, Cutter(port, total, clients=CLIENTS, longest_s=LONGEST_S, seed=seed).run())
        eventually(lambda: _all_are_busy(cluster), 20, "proxy and replicas say that they are busy: a zero must mean it")
        cuts = storm.result()
    took_s = time.monotonic() - began_s
    settled_s = settled(cluster, 5.0)
    print(f"[chain cut] {cuts.summary()} in {took_s:.1f} s; all counts 0 after {settled_s * 1e3:.0f} ms")

    counts = cuts.counts
    assert not cuts.surprises, cuts.summary()
    assert cuts.sent == total
    bitten = {"leave/left": 0.1, "deadline/408": 0.02, "front/cancelled": 0.01, "middle/cancelled": 0.01}
    for name, share in bitten.items():
        assert counts[name] >= total * share, f"too few cuts of the kind {name}: {cuts.summary()}"
    assert cluster.node.json("/-/counters")["client_left"] - left_before >= counts["leave/left"] // 10

    whole = asyncio.run(Cutter(port, 1000, clients=32, longest_s=1.0, seed=seed, cuts=("none",)).run())
    assert whole.counts == {"none/ok": 1000}, whole.summary()
    assert not [level for level in levels(cluster) if level.busy]
