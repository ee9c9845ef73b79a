"""`serve-agent stop` and `restart-proxies`: asks the running agent, or ends the node from its handle files alone.

Called by `main`. Without an agent, the launcher (the living one, or a new one that reads the handle files) is told to
end everything, in the order of traffic. The registration, if any is left, expires with its lease.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterable
from typing import Any

import grpc.aio

from serve_rt.agents.hosting import remove_sockets
from serve_rt.agents.launcher.client import LauncherClient
from serve_rt.agents.launcher.records import Handle, ProcessKind
from serve_rt.agents.memory import AgentMemory
from serve_rt.agents.state_lock import StateLock, holder
from serve_rt.config.paths import StateDir
from serve_rt.credentials import ClusterToken, control_channel
from serve_rt.errors import ConflictError, NoClusterError, ServeException, UnavailableError
from serve_rt.pb import control_pb2 as pb
from serve_rt.wire.errors import from_rpc_error
from serve_rt.wire.services import Stub

RESTART_PROXIES_S = 600.0
_END_S = 3.0
_POLL_S = 0.02


async def stop_node(state: StateDir, *, force: bool, drain_s: float) -> str:
    """What was done, as a sentence. *Errors*: ServeException when the node could not be ended."""
    if not state.path.is_dir():
        return f"nothing runs here: there is no state dir {state.path}"
    try:
        lock = StateLock.take(state.lock)
    except ConflictError:
        return await _ask_agent(state, force, drain_s)
    try:
        return await _without_agent(state, drain_s)
    finally:
        lock.release()


async def restart_node_proxies(state: StateDir) -> int:
    """How many workers were replaced."""
    reply = await _call(state, "RestartProxies", pb.RestartProxiesRequest(), RESTART_PROXIES_S)
    return int(reply.replaced)


async def _ask_agent(state: StateDir, force: bool, drain_s: float) -> str:
    pid = holder(state.lock)
    await _call(state, "Leave", pb.LeaveRequest(force=force, drain_s=drain_s), 10.0)
    if not await _ended(pid, drain_s + 20.0):
        raise UnavailableError(
            f"the agent (pid {pid}) did not end within {drain_s + 20:g} s: see {state.logs}/agent.log"
        )
    return f"stopped the node of {state.path}"


async def _call(state: StateDir, method: str, request: object, timeout_s: float) -> Any:  # Any: messages differ
    try:
        address = state.address.read_text().strip()
    except OSError as error:
        raise NoClusterError(f"no agent runs with the state dir {state.path}: start one with serve-agent") from error
    async with control_channel(address, ClusterToken.read(state.token)) as channel:
        stub = Stub(channel, pb.DESCRIPTOR.services_by_name["Agent"])
        try:
            return await getattr(stub, method)(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, f"{method} of the agent at {address}") from error


async def _ended(pid: int, timeout_s: float) -> bool:
    try:
        fd = os.pidfd_open(pid)
    except (ProcessLookupError, ValueError):
        return True
    loop = asyncio.get_running_loop()
    gone = loop.create_future()
    loop.add_reader(fd, gone.cancel)
    try:
        await asyncio.wait({gone}, timeout=timeout_s)
        return gone.done()
    finally:
        loop.remove_reader(fd)
        os.close(fd)


# --- without an agent ---------------------------------------------------------------------------------------------


async def _without_agent(state: StateDir, drain_s: float) -> str:
    if not any(state.handles.glob("*")) and not state.launcher_socket.exists():
        return f"nothing runs with the state dir {state.path}"
    launcher = await LauncherClient.connect(state)
    alive = [handle for handle in await launcher.handles() if handle.exited is None]
    order = (ProcessKind.CONTROLLER, ProcessKind.PROXY), (ProcessKind.REPLICA,), (ProcessKind.ETCD,)
    await _signal(launcher, _of(alive, *order[0]))
    await _signal(launcher, _of(alive, *order[1]))
    await _wait_gone(launcher, ProcessKind.REPLICA, drain_s)
    await _end_kinds(launcher, (*order[1], *order[0]))
    await _signal(launcher, _of(alive, *order[2]))
    await _wait_gone(launcher, ProcessKind.ETCD, _END_S)
    await _end_kinds(launcher, order[2])
    await launcher.shutdown()
    AgentMemory(state).clear()
    remove_sockets(state)
    state.address.unlink(missing_ok=True)
    return f"stopped {len(alive)} processes of {state.path}"


def _of(handles: Iterable[Handle], *kinds: ProcessKind) -> list[Handle]:
    return [handle for handle in handles if handle.kind in kinds]


async def _signal(launcher: LauncherClient, handles: Iterable[Handle]) -> None:
    for handle in handles:
        await launcher.signal(handle.name, handle.incarnation, signal.SIGTERM)


async def _wait_gone(launcher: LauncherClient, kind: ProcessKind, timeout_s: float) -> None:
    deadline = asyncio.get_running_loop().time() + timeout_s
    while asyncio.get_running_loop().time() < deadline:
        if not [h for h in await launcher.handles() if h.kind is kind and h.exited is None]:
            return
        await asyncio.sleep(_POLL_S)


async def _end_kinds(launcher: LauncherClient, kinds: tuple[ProcessKind, ...]) -> None:
    """Kill what is left of these kinds and forget them all."""
    for handle in _of(await launcher.handles(), *kinds):
        try:
            await launcher.kill_group(handle.name, handle.incarnation)
            await launcher.forget(handle.name, handle.incarnation)
        except ServeException:
            continue  # it ended meanwhile; shutdown() kills whatever stays
