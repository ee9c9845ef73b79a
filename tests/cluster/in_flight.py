"""What every process of a cluster believes to be in flight: after any storm all of it must come back to zero.

The proxy's routers tell in `/-/counters`; a replica tells in `Ping` what its semaphore and its table of calls hold, and
what its own handles have under way to others.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from serve_rt.credentials import control_channel
from serve_rt.credentials.token import ClusterToken
from serve_rt.pb import replica_pb2 as pb
from serve_rt.wire.services import Stub
from tests.cluster.harness import LocalCluster, Node

PING_S = 5.0


@dataclass(frozen=True, slots=True)
class Level:
    """One reading of one process."""

    who: str
    counts: tuple[tuple[str, int], ...]

    @property
    def busy(self) -> bool:
        return any(count for _, count in self.counts)

    def __str__(self) -> str:
        return f"{self.who}: " + " ".join(f"{name}={count}" for name, count in self.counts if count)


def levels(cluster: LocalCluster) -> list[Level]:
    """Of every proxy and every replica."""
    return [level for node in cluster.nodes for level in (_of_proxy(node), *asyncio.run(_of_replicas(node)))]


def _of_proxy(node: Node) -> Level:
    counters = node.json("/-/counters")
    return Level(f"proxy of {node.ready['node_id']}", tuple((name, counters[name]) for name in ("waiting", "reserved")))


async def _of_replicas(node: Node) -> list[Level]:
    token = ClusterToken.read(node.state.token)
    replicas = [(handle.name, handle.address) for handle in node.handles("replica")]
    return await asyncio.gather(*(_of_replica(name, address, token) for name, address in replicas))


async def _of_replica(name: str, address: str, token: ClusterToken) -> Level:
    channel = control_channel(address, token)
    try:
        stub = Stub(channel, pb.DESCRIPTOR.services_by_name["Replica"])
        reply: pb.PingReply = await stub.Ping(pb.PingRequest(), timeout=PING_S, wait_for_ready=True)
    finally:
        await channel.close()
    names = ("ongoing", "slots_taken", "queued", "calls_queued", "calls_ongoing")
    return Level(name, tuple((field, int(getattr(reply, field))) for field in names))


def settled(cluster: LocalCluster, timeout_s: float) -> float:
    """Return when nothing is in flight anywhere, and after how many seconds.

    *Errors*: AssertionError naming who still holds what.
    """
    began_s = time.monotonic()
    while True:
        busy = [level for level in levels(cluster) if level.busy]
        took_s = time.monotonic() - began_s
        if not busy:
            return took_s
        assert took_s < timeout_s, f"still in flight after {took_s:.1f} s: {'; '.join(map(str, busy))}"
        time.sleep(0.02)
