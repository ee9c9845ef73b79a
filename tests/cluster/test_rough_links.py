"""Real replicas of a cluster behind links that cut up, stall and reset (T17); called by a router of this process."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

import pytest

from serve_rt.credentials.token import ClusterToken
from serve_rt.errors import ReplicaDiedError
from serve_rt.model.routes import ReplicaRoute, RouteTable
from serve_rt.pb import stream_pb2 as pb
from serve_rt.routing import FeedClient, Routers
from serve_rt.testing.fault_link import FaultLink, fault_link
from tests.cluster.conftest import ClusterFactory
from tests.cluster.harness import Node
from tests.routing.replicas import answer, outgoing
from tests.routing.test_bad_links import DEADLINE_S, Traffic

RESETS = 30


@dataclass
class NonceTraffic(Traffic):
    """For the application of these tests: it answers with the nonce."""

    async def _ask(self, number: int) -> None:
        nonce = f"{self.name}{number}"
        head = pb.HttpHead(
            type="http", method="GET", path="/", raw_path=b"/", query_string=b"nonce=%s" % nonce.encode(),
            scheme="http", http_version="1.1",
        )  # fmt: skip
        try:
            async with asyncio.timeout(DEADLINE_S):
                said = json.loads(await answer(await self.routers[0].send(outgoing(nonce, http=head, retry_safe=True))))
        except (ReplicaDiedError, TimeoutError) as error:
            self.lost.append(error)
        else:
            self.answered += 1
            self.wrong += said["nonce"] != nonce


async def behind_links(table: RouteTable, stack: AsyncExitStack) -> tuple[RouteTable, list[FaultLink]]:
    """The same routes, through a link each."""
    [deployment] = table.deployments
    links: list[FaultLink] = []
    routes: list[ReplicaRoute] = []
    for route in deployment.replicas:
        host, _, port = route.address.rpartition(":")
        links.append(await stack.enter_async_context(fault_link(host, int(port))))
        routes.append(replace(route, address=links[-1].address))
    return replace(table, deployments=(replace(deployment, replicas=tuple(routes)),)), links


async def ask_over_rough_links(node: Node) -> tuple[Traffic, list[FaultLink]]:
    token = ClusterToken.read(node.state.token)
    tables: asyncio.Queue[RouteTable] = asyncio.Queue()
    feed = FeedClient([node.address], token, "rough", tables.put_nowait, None)
    routers = Routers("default", token, "rough")
    feed.start()
    try:
        async with AsyncExitStack() as stack, asyncio.timeout(90):
            table, links = await behind_links(await tables.get(), stack)
            routers.update(table)
            for link in links:
                link.rough(piece_bytes=1, stall_share=0.05, stall_s=0.2)
            traffic = NonceTraffic([routers.router(table.deployments[0].key)])
            async with traffic.flows():
                for number in range(RESETS):
                    links[number % len(links)].reset()
                    await traffic.settled()  # one that was hit is not hit again: only one retry is promised
            assert all(link.there.bitten and link.back.bitten and link.resets for link in links)
    finally:
        await routers.close()
        await feed.close()
    return traffic, links


@pytest.mark.chaos
def test_rough_links_to_real_replicas_lose_nothing(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of()
    cluster.deploy("echo", num_replicas=2)
    before = [handle.key for handle in cluster.await_replicas(2)]
    traffic, links = asyncio.run(ask_over_rough_links(cluster.node))
    dials = sum(link.connections for link in links)
    print(f"{traffic.answered} answered, {sum(link.resets for link in links)} resets, {dials} dials")
    assert not traffic.lost and not traffic.wrong and traffic.answered > RESETS
    assert dials <= 2 + 3 * RESETS, "no busy dialing"
    assert [handle.key for handle in cluster.await_replicas(2)] == before
