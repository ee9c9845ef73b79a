"""Writes what a leader would write, straight to etcd, so that an agent is tested without one."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

from serve_rt.agents.blobs import push_blob
from serve_rt.api.payload import Payload, pack
from serve_rt.credentials import ClusterToken
from serve_rt.etcd import EtcdClient, Keys
from serve_rt.model.cluster import LeaderRecord, MetaRecord
from serve_rt.model.ids import BlobDigest, NodeId, ReplicaId
from serve_rt.model.node import NodeRecord
from serve_rt.model.replica import Assignment, Goal, Observed, ReplicaState
from serve_rt.model.routes import DeploymentRoute, ReplicaRoute
from serve_rt.wire import records
from tests.agents import apps
from tests.agents.values import REPLICA, assignment
from tests.cluster.harness import Node
from tests.cluster.processes import eventually

T = TypeVar("T")
KEYS = Keys("default")


class FakeLeader:
    """For one node. Each call opens its own client: tests are not coroutines."""

    def __init__(self, node: Node, endpoint: str) -> None:
        self._node = node
        self._endpoint = endpoint
        self.node_id = NodeId(str(node.ready["node_id"]))
        self._do(lambda store: store.put(KEYS.meta, records.encode(MetaRecord("life-1"))))

    def assign(self, target: type = apps.Hello, replica: ReplicaId = REPLICA, **options: object) -> Assignment:
        digest = self._give_blob(pack(Payload(target), by_value=[apps]))
        made = replace(assignment(replica, payload=digest, options_=options), node_id=self.node_id)
        self.write(made)
        return made

    def write(self, made: Assignment) -> None:
        self._do(lambda store: store.put(KEYS.assign(self.node_id, made.replica_id), records.encode(made)))

    def drain(self, made: Assignment) -> None:
        self.write(replace(made, goal=Goal.DRAIN))

    def withdraw(self, replica: ReplicaId = REPLICA) -> None:
        self._do(lambda store: store.delete(KEYS.assign(self.node_id, replica)))

    def observed(self, replica: ReplicaId = REPLICA) -> Observed | None:
        found = self._do(lambda store: store.get(KEYS.observed(self.node_id, replica)))
        return records.decode(found.value, Observed) if found is not None else None

    def registered(self) -> NodeRecord | None:
        found = self._do(lambda store: store.get(KEYS.node(self.node_id)))
        return records.decode(found.value, NodeRecord) if found is not None else None

    def await_state(
        self, state: ReplicaState, *, incarnation: int = 0, replica: ReplicaId = REPLICA, timeout_s: float = 15.0
    ) -> Observed:
        def reached() -> Observed | None:
            seen = self.observed(replica)
            return seen if seen is not None and seen.state is state and seen.incarnation >= incarnation else None

        return eventually(reached, timeout_s, f"{replica} is {state.name} (is {self.observed(replica)})")

    def publish_route(self, seen: Observed) -> None:
        made = assignment(seen.replica_id)
        replica = ReplicaRoute(seen.replica_id, seen.incarnation, seen.address, self.node_id)
        route = DeploymentRoute(made.app, made.spec.name, (replica,))
        self._do(lambda store: store.put(KEYS.routes(made.app, made.spec.name, 0), records.encode(route)))

    def lead(self, address: str) -> None:
        record = LeaderRecord(self.node_id, address)
        self._do(lambda store: store.put(KEYS.leader, records.encode(record)))

    def _give_blob(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()

        async def chunks() -> AsyncIterator[bytes]:
            yield data

        token = ClusterToken.read(self._node.state.token)
        asyncio.run(push_blob(self._node.address, token, BlobDigest(digest), chunks()))
        return digest

    def _do(self, call: Callable[[EtcdClient], Awaitable[T]]) -> T:
        async def once() -> T:
            store = EtcdClient([self._endpoint])
            try:
                return await call(store)
            finally:
                await store.close()

        return asyncio.run(once())
