"""The controller process: forked by the launcher as `serve_rt.controller.main:run`, ended by SIGTERM.

It mirrors the store, stands for election, serves the Controller service, and leads while it is elected. It never opens
user code: what it handles are specs, digests and observations.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec

from serve_rt.aio import Clock, SystemClock, TaskOwner, cancel_and_wait
from serve_rt.controller.api_server import ControllerService
from serve_rt.controller.election import stand_for_ever
from serve_rt.controller.loop import ControlLoop
from serve_rt.controller.settings import ControlSettings
from serve_rt.credentials import ClusterToken, control_server
from serve_rt.etcd import EtcdClient, EtcdStore, EtcdTls, Keys, Leadership
from serve_rt.model.cluster import LeaderRecord
from serve_rt.model.starts import ControllerStart, EtcdAddress
from serve_rt.observe import log as logs
from serve_rt.pb import control_pb2 as pb
from serve_rt.store.mirror import Mirror
from serve_rt.wire.services import service_handler

log = logging.getLogger(__name__)
LOG_LEVEL_VARIABLE = "SERVE_LOG_LEVEL"


def run(start: Mapping[str, Any]) -> int:
    """The process's whole life; its exit code: 0 after SIGTERM, 1 when a part failed (its agent starts another)."""
    import uvloop

    logs.configure("controller", os.environ.get(LOG_LEVEL_VARIABLE, "INFO"))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(msgspec.convert(dict(start), ControllerStart)))


async def _run(start: ControllerStart) -> int:
    ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def end(code: int) -> None:
        if not ended.done():
            ended.set_result(code)

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end, 0)
    async with AsyncExitStack() as stack:
        tasks = TaskOwner("controller", on_failure=lambda _: end(1))
        store = EtcdClient(start.etcd.endpoints, tls=tls_of(start.etcd))
        stack.push_async_callback(store.close)
        stack.push_async_callback(tasks.close)
        candidate, _ = await serve_candidate(start, store, tasks, stack, ControlSettings.of_process())
        stack.push_async_callback(cancel_and_wait, candidate)  # first of all: resign while the store is open
        return await ended


async def serve_candidate(
    start: ControllerStart,
    store: EtcdStore,
    tasks: TaskOwner,
    stack: AsyncExitStack,
    settings: ControlSettings,
    clock: Clock | None = None,
) -> tuple[asyncio.Task[Any], str]:
    """Start the mirror, the service and the candidacy; the candidacy's task (cancel it to resign), our address."""
    clock, keys = clock or SystemClock(), Keys(start.cluster)
    token = ClusterToken.read(Path(start.token_path))
    mirror = Mirror(store, keys, clock=clock)
    tasks.start_eternal(mirror.run(), name="mirror")
    service = ControllerService(store, keys, mirror, clock)
    server = control_server(token)
    server.add_generic_rpc_handlers((service_handler(pb.DESCRIPTOR.services_by_name["Controller"], service),))
    port = server.add_insecure_port(f"{start.host}:0")
    await server.start()
    stack.push_async_callback(server.stop, 0.0)
    record = LeaderRecord(
        node_id=start.node_id,
        address=f"{start.advertise_host or start.host}:{port}",
        pid=os.getpid(),
        started_at_s=clock.wall(),
    )

    async def lead(leadership: Leadership) -> None:
        loop = ControlLoop(mirror, keys, leadership, token, settings, clock)
        service.leadership, service.scaling = leadership, loop.scaling_overview
        service.metrics_page = loop.metrics
        try:
            await loop.run()
        finally:
            service.leadership = service.scaling = service.metrics_page = None

    log.info("candidate", extra={"action": "candidate", "address": record.address})
    standing = stand_for_ever(store, keys, record, settings.lease_s, lead, clock)
    return tasks.start_eternal(standing, name="candidacy"), record.address


def tls_of(etcd: EtcdAddress) -> EtcdTls | None:
    if not etcd.ca:
        return None
    return EtcdTls(Path(etcd.ca), Path(etcd.cert) if etcd.cert else None, Path(etcd.key) if etcd.key else None)
