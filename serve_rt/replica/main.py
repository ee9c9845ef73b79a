"""A replica process from its first line to its last. Forked by the node's launcher, which calls `run`.

The launcher has done the descriptors, session, environment, random seeds, sys.path and process title. Here: read what
to be, listen, then `serve_rt.replica.lifecycle`. At the end everything is closed by hand and a watchdog stands behind
it, because gRPC's threads and user code can both keep a process that wants to end.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from serve_rt.aio import TaskOwner
from serve_rt.api.replica_context import ReplicaContext, ReplicaID, ReplicaRank, set_replica_context
from serve_rt.credentials import ClusterToken, stream_server
from serve_rt.errors import ConflictError, ServeException
from serve_rt.handle.runtime import install_in_replica
from serve_rt.model.spec import LoggingOptions
from serve_rt.model.starts import ReplicaStart
from serve_rt.multiplex.held import held
from serve_rt.observe import user_metrics
from serve_rt.observe.user_log import UserLog
from serve_rt.pb import replica_pb2
from serve_rt.replica.access_log import AccessLog
from serve_rt.replica.call import Roads
from serve_rt.replica.crossing import Crossing
from serve_rt.replica.dispatch import Dispatch
from serve_rt.replica.exposition import Exposition
from serve_rt.replica.lifecycle import Lifecycle
from serve_rt.replica.loop_errors import ignore_poller_noise
from serve_rt.replica.rotating_log import RotatingLog
from serve_rt.replica.service import ReplicaService
from serve_rt.replica.thread_pool import ThreadPool
from serve_rt.replica.user_loop import UserLoop
from serve_rt.transport.limits import GIL_SWITCH_S
from serve_rt.transport.server import ReplicaIdentity, StreamService
from serve_rt.wire.services import service_handler

log = logging.getLogger(__name__)
LOG_CHECK_S = 5.0
CLOSE_S = 2.0
"""All that closes at the end may take this long together; then the process ends anyway."""


def run(start: Mapping[str, Any]) -> int:  # Any: JSON of a ReplicaStart
    """Be the replica that `start` describes; returns the exit code when it has ended.

    *Resources*: the caller ends the process with it (`os._exit`): user threads may still run.
    """
    told = msgspec.convert(start, ReplicaStart)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(line_buffering=True)
    faulthandler.enable(all_threads=True)  # a crash in a C extension then leaves a Python traceback in the log
    faulthandler.register(signal.SIGQUIT, all_threads=True)  # asked for by the agent when nothing else answers
    user_log = _open_log(told)
    sys.setswitchinterval(GIL_SWITCH_S)
    loop = uvloop.new_event_loop()
    loop.set_exception_handler(ignore_poller_noise)
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(_live(told, user_log))
    except ServeException as error:
        log.error("%s", error, extra={"action": "replica_failed"})
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _open_log(start: ReplicaStart) -> UserLog:
    replica, spec = start.assignment.replica_id, start.assignment.spec
    names = {"application": start.assignment.app, "deployment": spec.name, "replica": replica.rsplit("#", 1)[-1]}
    process = f"replica {replica}"
    try:
        return UserLog(process, names, spec.options.logging)
    except OSError as error:
        opened = UserLog(process, names, replace(spec.options.logging, logs_dir=None))
        log.error("logs_dir cannot be used: %s", error, extra={"action": "logs_dir_failed"})
        return opened


async def _live(start: ReplicaStart, user_log: UserLog) -> int:
    loop = asyncio.get_running_loop()
    spec, replica = start.assignment.spec, start.assignment.replica_id
    token = ClusterToken.read(Path(start.token_path))
    tasks = TaskOwner(f"replica {replica}")
    user_loop, pool = UserLoop(), ThreadPool(spec.options.max_ongoing_requests)
    access_log = AccessLog(loop, f"replica {replica}")
    access_log.follow(user_log)
    roads = Roads(Crossing(loop, "user -> main"), user_loop.posts, tasks, access_log)
    dispatch = Dispatch(start.assignment.key, user_loop, pool, roads)
    identity = ReplicaIdentity(start.cluster, replica, start.incarnation)
    service = StreamService(identity, token, dispatch, spec.options.max_ongoing_requests)
    service.set_accepting(False)
    held.watch(lambda models: roads.to_main.post(service.set_models, models))
    context = _replica_context(start)
    set_replica_context(context)
    handles = install_in_replica(start.agent_address, token, start.cluster, f"replica/{replica}", loop)
    lifecycle = Lifecycle(start, context, service, dispatch, user_loop, pool, tasks)
    lifecycle.on_logging = partial(_change_log, user_log, access_log)
    context.set_extra_slots = lambda extra: _on_loop(loop, lifecycle.set_extra_slots, extra)
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, lifecycle.ask_drain)

    origin = (context.app_name, context.deployment, context.replica_tag)
    user_metrics.set_origin(*origin)
    exposition = Exposition(origin, roads.counts, dispatch, service)
    server = stream_server(token)
    handlers = service_handler(
        replica_pb2.DESCRIPTOR.services_by_name["Replica"],
        ReplicaService(lifecycle, dispatch, user_loop, service, handles, exposition),
    )
    server.add_generic_rpc_handlers((service.grpc_handler, handlers))
    _bind(server, start)
    user_loop.start()
    await server.start()
    log.info("listening on %s:%d", start.host, start.port, extra={"action": "replica_listening"})
    tasks.start_eternal(_keep_logs_short(user_log), name="log rotation")
    code = 1
    try:
        code = await lifecycle.run()
    finally:
        _end_anyway_after(CLOSE_S, code)
        lifecycle.close()
        await handles.close()
        await service.close()
        await server.stop(0.2)
        await tasks.close()
        access_log.close()
        log.info("ended with %d", code, extra={"action": "replica_ended"})
        user_loop.stop(0.2)
        user_log.close()
    return code


def _replica_context(start: ReplicaStart) -> ReplicaContext:
    spec, rank = start.assignment.spec, start.assignment.rank
    return ReplicaContext(
        app_name=start.assignment.app,
        deployment=spec.name,
        replica_tag=start.assignment.replica_id.rsplit("#", 1)[-1],
        replica_id=ReplicaID(start.assignment.replica_id),
        max_ongoing_requests=spec.options.max_ongoing_requests,
        code_version=spec.version,
        node_id=start.node_id,
        rank=ReplicaRank(rank.rank, rank.node_rank, rank.local_rank),
        world_size=start.assignment.world_size or spec.options.num_replicas,
        code=spec.code,
        code_root=spec.code_root,
        incarnation=start.incarnation,
    )


def _bind(server: Any, start: ReplicaStart) -> None:  # Any: grpc.aio.Server is untyped about ports
    address = f"{start.host}:{start.port}"
    try:
        bound = server.add_insecure_port(address)
    except RuntimeError as error:
        bound = 0
        reason: Exception | None = error
    else:
        reason = None
    if not bound:
        raise ConflictError(
            f"cannot listen on {address}: the port is taken or not ours; see --replica-ports"
        ) from reason


async def _keep_logs_short(user_log: UserLog) -> None:
    rotating = RotatingLog()
    while True:
        await asyncio.sleep(LOG_CHECK_S)
        rotating.check()
        if user_log.fd != 2:
            RotatingLog((user_log.fd,)).check()


def _change_log(user_log: UserLog, access_log: AccessLog, options: LoggingOptions) -> None:
    access_log.flush()
    user_log.apply(options)
    access_log.follow(user_log)


def _on_loop(loop: asyncio.AbstractEventLoop, step: Callable[[int], None], value: int) -> None:
    loop.call_soon_threadsafe(step, value)


def _end_anyway_after(seconds: float, code: int) -> None:
    def end() -> None:
        time.sleep(seconds)
        sys.stderr.flush()
        os._exit(code)

    threading.Thread(target=end, name="exit watchdog", daemon=True).start()
