"""Routes and routers as one thing that a HandleRuntime opens and closes: the feed fills the routers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from serve_rt.credentials import ClusterToken, control_channel
from serve_rt.errors import NoClusterError
from serve_rt.handle.runtime import FIRST_TABLE_TIMEOUT_S, Sender
from serve_rt.model.ids import DeploymentKey
from serve_rt.model.routes import RouteTable
from serve_rt.routing import DemandReporter, FeedClient, Routers


class FedRoutes:
    """A RouteSource: Routers kept current by a FeedClient. Event loop only."""

    def __init__(self, addresses: Sequence[str], token: ClusterToken, cluster: str, client_name: str) -> None:
        self._routers = Routers(cluster, token, client_name)
        self._feed = FeedClient(addresses, token, client_name, self._on_table, None)
        self._demand = DemandReporter(self._routers, self._feed, token)
        self._changed = asyncio.Event()
        self._known: set[DeploymentKey] = set()

    @property
    def table(self) -> RouteTable | None:
        return self._routers.table

    def router(self, key: DeploymentKey) -> Sender:
        return self._routers.router(key)

    def demand(self) -> dict[DeploymentKey, tuple[int, int]]:
        return self._routers.demand()

    def was_known(self, key: DeploymentKey) -> bool:
        return key in self._known

    def start(self) -> None:
        self._feed.start()
        self._demand.start()

    async def wait_for_change(self) -> None:
        await self._changed.wait()

    def _on_table(self, table: RouteTable) -> None:
        self._routers.update(table)
        self._known.update(route.key for route in table.deployments)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def close(self) -> None:
        await self._demand.close()
        await self._feed.close()
        await self._routers.close()


async def open_feed(addresses: Sequence[str], token: ClusterToken, cluster: str, client_name: str) -> FedRoutes:
    """Subscribe and wait for the first table.

    *Errors*: NoClusterError after FIRST_TABLE_TIMEOUT_S.
    """
    routes = FedRoutes(addresses, token, cluster, client_name)
    changed = asyncio.ensure_future(routes.wait_for_change())
    routes.start()
    try:
        async with asyncio.timeout(FIRST_TABLE_TIMEOUT_S):
            await changed
    except TimeoutError as error:
        await routes.close()
        raise NoClusterError(
            f"no agent answered at {', '.join(addresses)} within {FIRST_TABLE_TIMEOUT_S:g} s: is the cluster running?"
        ) from error
    except BaseException:
        await routes.close()
        raise
    finally:
        changed.cancel()
    return routes


async def cluster_name(address: str, token: ClusterToken) -> str:
    """The name of the cluster that the agent at `address` belongs to."""
    import grpc.aio

    from serve_rt.pb import control_pb2
    from serve_rt.wire.errors import from_rpc_error
    from serve_rt.wire.services import Stub

    channel = control_channel(address, token)
    try:
        stub = Stub(channel, control_pb2.DESCRIPTOR.services_by_name["Agent"])
        reply = await stub.Identity(control_pb2.IdentityRequest(), timeout=5.0)
        name: str = reply.cluster
        return name
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error, f"the agent at {address}") from error
    finally:
        await channel.close()
