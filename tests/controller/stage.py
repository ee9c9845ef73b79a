"""A stage for the acting half: a store, candidates in this process, and agents that serve `Assign` and obey.

The agents run nothing: an assignment is READY as soon as they have it. They speak over real gRPC, write observed
records under a real lease, and can be told to listen to their watch alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc.aio

from serve_rt.aio import TaskOwner, cancel_and_wait
from serve_rt.controller.main import serve_candidate
from serve_rt.controller.settings import ControlSettings
from serve_rt.credentials import ClusterToken, control_channel, control_server
from serve_rt.errors import ServeException
from serve_rt.etcd import EtcdStore, Keys, Session
from serve_rt.model.ids import AppName, NodeId, ReplicaId
from serve_rt.model.node import NodeRecord
from serve_rt.model.replica import Assignment, Goal, Observed, ReplicaState
from serve_rt.model.resources import NodeResources
from serve_rt.model.spec import ApplicationSpec
from serve_rt.model.starts import ControllerStart, EtcdAddress
from serve_rt.pb import control_pb2 as pb
from serve_rt.store.mirror import Mirror
from serve_rt.store.writer import NodeWriter
from serve_rt.wire.errors import from_rpc_error
from serve_rt.wire.records import decode, encode
from serve_rt.wire.services import Stub, service_handler

KEYS = Keys("stage")


class StandInAgent:
    """Registered, reachable, obedient."""

    def __init__(self, store: EtcdStore, token: ClusterToken, name: str) -> None:
        self.node = NodeId(name)
        self._store, self._token = store, token
        self.pushed = asyncio.Event()
        self.pushes: list[pb.AssignPush] = []
        self.running: dict[ReplicaId, Observed] = {}
        self.highest_epoch = self.applied = 0
        self._reports: asyncio.Queue[pb.AssignReport] = asyncio.Queue()
        self._tasks = TaskOwner(f"agent {name}")

    async def start(self, *, watches: bool = False, highest_revision: int = 0) -> None:
        self._server = control_server(self._token)
        self._server.add_generic_rpc_handlers((self._handler(),))
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        self.session = await Session.open(self._store, 5)
        self.writer = NodeWriter(self._store, KEYS, self.node, self.session.lease)
        self.record = NodeRecord(
            self.node,
            f"127.0.0.1:{port}",
            f"session-{port}",
            "boot",
            NodeResources(64_000, 64 << 30),
            highest_revision=highest_revision,
        )
        await self.writer.register(self.record)
        if watches:
            self.mirror = Mirror(self._store, KEYS)
            self._tasks.start(self.mirror.run(), name="mirror")
            self._tasks.start(self._obey_the_watch(), name="watch")

    def _handler(self) -> grpc.GenericRpcHandler:
        class Service:
            """Only Assign is asked for here."""

            def __getattr__(self, name: str) -> Any:
                return outer.assign if name == "assign" else outer.refuse

        outer = self
        return service_handler(pb.DESCRIPTOR.services_by_name["Agent"], Service())

    async def refuse(self, _request: Any, _context: Any) -> Any:
        raise ServeException("the stand-in agent does not do that")

    async def assign(self, pushes: AsyncIterator[pb.AssignPush], _context: Any) -> AsyncIterator[pb.AssignReport]:
        listening = asyncio.create_task(self._listen(pushes), name="stand-in agent listens")
        try:
            yield self.report()
            while True:
                yield await self._reports.get()
        finally:
            await cancel_and_wait(listening)

    async def _listen(self, pushes: AsyncIterator[pb.AssignPush]) -> None:
        async for push in pushes:
            if push.epoch < self.highest_epoch:
                self._reports.put_nowait(pb.AssignReport(highest_epoch=self.highest_epoch, refused=True))
                continue
            self.highest_epoch, self.applied = push.epoch, push.mod_revision
            self.pushes.append(push)
            self.pushed.set()
            await self.obey([decode(data, Assignment) for data in push.assignments])

    async def _obey_the_watch(self) -> None:
        while True:
            cluster = await self.mirror.wait_for(
                lambda c: (
                    {a.replica_id for a in c.assignments_of(self.node) if a.goal is Goal.RUN} != set(self.running)
                ),
                3600.0,
            )
            await self.obey(list(cluster.assignments_of(self.node)))

    async def obey(self, assignments: list[Assignment]) -> None:
        wanted = {a.replica_id: a for a in assignments if a.goal is Goal.RUN}
        gone = self.running.keys() - wanted.keys()
        fresh = [self._ready(a) for replica, a in wanted.items() if replica not in self.running]
        for replica in gone:
            del self.running[replica]
        self.running |= {observed.replica_id: observed for observed in fresh}
        self._reports.put_nowait(self.report())
        await self.writer.observe(fresh, gone)

    def _ready(self, assignment: Assignment) -> Observed:
        return Observed(
            assignment.replica_id,
            self.node,
            self.record.session,
            ReplicaState.READY,
            incarnation=1,
            address="127.0.0.1:1",
            version=assignment.spec.version,
            user_config_json=assignment.spec.options.user_config_json,
        )

    def report(self) -> pb.AssignReport:
        return pb.AssignReport(
            highest_epoch=self.highest_epoch,
            applied_revision=self.applied,
            observed=[encode(observed) for observed in self.running.values()],
        )

    async def close(self) -> None:
        await self._tasks.close()
        await self._server.stop(0)
        await self.session.close()


class Candidate:
    def __init__(self, task: asyncio.Task[Any], address: str, stack: AsyncExitStack) -> None:
        self._task, self.address, self._stack = task, address, stack

    async def stop(self) -> None:
        await cancel_and_wait(self._task)
        await self._stack.aclose()


class Stage:
    """*Resources*: `close()` ends everything that was started here."""

    def __init__(self, store: EtcdStore, folder: Path) -> None:
        self.store = store
        self.token_path = folder / "token"
        self.token = ClusterToken.create(self.token_path)
        self.mirror = Mirror(store, KEYS)
        self._tasks = TaskOwner("stage")
        self._closing = AsyncExitStack()

    async def open(self) -> None:
        self._tasks.start(self.mirror.run(), name="mirror")
        await self.mirror.wait_for(lambda _: True, 10)

    async def agent(self, name: str, *, watches: bool = False, highest_revision: int = 0) -> StandInAgent:
        agent = StandInAgent(self.store, self.token, name)
        await agent.start(watches=watches, highest_revision=highest_revision)
        self._closing.push_async_callback(agent.close)
        return agent

    async def candidate(
        self, name: str = "a", store: EtcdStore | None = None, settings: ControlSettings | None = None
    ) -> Candidate:
        stack, tasks = AsyncExitStack(), TaskOwner(f"candidate {name}")
        stack.push_async_callback(tasks.close)
        start = ControllerStart(
            KEYS.cluster, NodeId(name), "127.0.0.1", str(self.token_path), EtcdAddress(()), str(self.token_path.parent)
        )
        settings = settings or ControlSettings(lease_s=3.0)
        task, address = await serve_candidate(start, store or self.store, tasks, stack, settings)
        candidate = Candidate(task, address, stack)
        self._closing.push_async_callback(candidate.stop)
        return candidate

    async def leader(self, *, other_than: str = "", timeout_s: float = 15.0) -> str:
        cluster = await self.mirror.wait_for(
            lambda c: c.leader is not None and c.leader.node_id != other_than, timeout_s
        )
        assert cluster.leader is not None
        return cluster.leader.address

    async def deploy(self, app: ApplicationSpec, *, force: bool = False, address: str = "") -> pb.ChangeReply:
        return await self._call("Deploy", pb.DeployRequest(application=encode(app), force=force), address)

    async def deploy_together(self, *apps: ApplicationSpec, gone: Sequence[str] = ()) -> pb.ChangeReply:
        first, *more = map(encode, apps)
        return await self._call("Deploy", pb.DeployRequest(application=first, more=more, gone=gone), "")

    async def delete(self, app: str) -> pb.ChangeReply:
        return await self._call("Delete", pb.DeleteRequest(app=app), "")

    async def rollback(self, app: str, to_version: int = 0, deploy_id: str = "back") -> pb.ChangeReply:
        return await self._call("Rollback", pb.RollbackRequest(app=app, to_version=to_version, deploy_id=deploy_id), "")

    async def scale(self, app: str, deployment: str, num_replicas: int, deploy_id: str = "scaled") -> pb.ChangeReply:
        request = pb.ScaleRequest(app=app, deployment=deployment, num_replicas=num_replicas, deploy_id=deploy_id)
        return await self._call("Scale", request, "")

    async def _call(self, method: str, request: Any, address: str) -> pb.ChangeReply:
        async with control_channel(address or await self.leader(), self.token) as channel:
            stub = Stub(channel, pb.DESCRIPTOR.services_by_name["Controller"])
            try:
                reply: pb.ChangeReply = await getattr(stub, method)(request, timeout=10)
            except grpc.aio.AioRpcError as error:
                raise from_rpc_error(error, method) from error
        return reply

    async def serving(self, app: str, replicas: int, timeout_s: float = 10.0) -> None:
        await self.mirror.wait_for(
            lambda c: sum(len(r.replicas) for key, r in c.routes.items() if key.app == AppName(app)) == replicas,
            timeout_s,
        )

    async def close(self) -> None:
        await self._closing.aclose()
        await self._tasks.close()
