"""One running agent: brings its parts up in the order they need each other, and takes them down again.

    launcher → etcd (embedded or given) → gRPC server and HTTP sockets → adoption → proxies → registration → controller

Made by `boot`. Adoption needs neither etcd nor the leader, so a restarted agent has its replicas back at once; what
needs etcd goes on in the background when something runs here already. An agent that fails before it is up, and found
nothing running, leaves nothing running.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket

import grpc.aio

from serve_rt.agents import readiness, specs
from serve_rt.agents.children import Children
from serve_rt.agents.ending import Ending, EndingWish
from serve_rt.agents.hosting import forget_data, host_etcd, remove_sockets
from serve_rt.agents.launcher.records import Handle, ProcessKind
from serve_rt.agents.launcher_link import LauncherLink
from serve_rt.agents.leaving import Leaving
from serve_rt.agents.node import ThisNode
from serve_rt.agents.parts import Parts
from serve_rt.agents.proc_state import boot_id
from serve_rt.agents.proxies import Proxies
from serve_rt.agents.reaching import first_contact
from serve_rt.agents.resources import node_resources
from serve_rt.agents.settings import Settings
from serve_rt.agents.upgrade import note_software
from serve_rt.aio import SystemClock, TaskOwner, cancel_and_wait
from serve_rt.credentials import ClusterToken, control_server
from serve_rt.errors import ConflictError, EtcdUnavailableError
from serve_rt.model.ids import NodeId
from serve_rt.model.starts import EtcdAddress

log = logging.getLogger(__name__)
_PROXY_ANSWERS_S = 10.0
_REGISTERED_SOON_S = 2.0


class Agent:
    def __init__(self, settings: Settings, launcher: LauncherLink, found: tuple[Handle, ...]) -> None:
        self._settings = settings
        self._launcher = launcher
        self._found = found
        self._clock = SystemClock()
        self._ending = EndingWish(settings)
        self._tasks = TaskOwner("agent", on_failure=lambda _: self._ending.set(Ending.FAIL))
        launcher.on_broken = lambda _: self._ending.set(Ending.FAIL)
        self._children = Children(launcher, self._clock)
        self._proxies = Proxies(settings, launcher, self._children, found)
        self._token = ClusterToken.create(settings.state.token)
        self._server: grpc.aio.Server = control_server(self._token)
        self._parts: Parts | None = None
        self._registering: asyncio.Task[None] | None = None

    async def run(self) -> int:
        """Until told to end; the exit code. *Errors*: ServeException when it cannot start."""
        self._ending.listen()
        starting = asyncio.create_task(self._start(), name="start the agent")
        wish = asyncio.create_task(self._ending.wait(), name="wait for the end")
        await asyncio.wait({starting, wish}, return_when=asyncio.FIRST_COMPLETED)
        try:
            if starting.done():
                starting.result()
            else:
                await cancel_and_wait(starting)  # told to end before it was up
        except BaseException:
            await cancel_and_wait(wish)
            await self._undo()
            raise
        return await self._end(await wish)

    # --- up -------------------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        port = self._bind()
        (etcd, hosts_etcd), _ = await asyncio.gather(self._etcd(), self._proxies.bind_if_sure())
        node = self._node(port, etcd, hosts_etcd)
        parts = self._parts = Parts(node, self._launcher, self._children, self._clock, self._tasks)
        parts.serve_http(self._proxies)
        self._ending.needed_by_others = parts.other_nodes
        self._server.add_generic_rpc_handlers((parts.handler(self._ending),))
        await self._server.start()
        self._settings.state.address.write_text(f"{node.address}\n")
        adopted = await parts.adopt(self._found)
        parts.start_tasks()
        log.info("serving on %s", node.address, extra={"action": "agent_serving", "adopted": adopted})
        await self._proxies.bind_if_told(node, parts.mirror)
        proxies = asyncio.create_task(self._proxies.start(node), name="start proxies")
        try:
            await self._register(parts)
            await self._start_controller(node)
            await proxies
        finally:
            await cancel_and_wait(proxies)
        self._tasks.start_eternal(self._proxies.run(node), name="proxies")
        await self._children.retire_strangers(self._found)
        note_software(self._settings.state)
        await self._report_ready(node)

    def _bind(self) -> int:
        """Our gRPC port; with `--port 0` the one of our former life if it is still free: others remember it."""
        settings = self._settings
        remembered = settings.state.path / "agent-port"
        wanted = [settings.port] if settings.port else [_read_port(remembered), 0]
        for port in dict.fromkeys(wanted):
            try:
                bound = int(self._server.add_insecure_port(f"{settings.host}:{port}"))
            except RuntimeError:
                continue
            if bound:
                remembered.write_text(f"{bound}\n")
                return bound
        raise ConflictError(f"{settings.host}:{settings.port} cannot be bound: give another --port")

    async def _etcd(self) -> tuple[EtcdAddress, bool]:
        if self._settings.etcd is not None:
            return self._settings.etcd, False
        return await host_etcd(self._settings, self._children, self._found), True

    def _node(self, port: int, etcd: EtcdAddress, hosts_etcd: bool) -> ThisNode:
        settings = self._settings
        node_id = NodeId(settings.node_id or kept_node_id(settings))
        return ThisNode(
            settings=settings,
            node_id=node_id,
            session=secrets.token_hex(8),
            boot_id=boot_id(),
            token=self._token,
            resources=node_resources(settings, node_id),
            address=f"{settings.advertised}:{port}",
            etcd=etcd,
            hosts_etcd=hosts_etcd,
        )

    async def _register(self, parts: Parts) -> None:
        """With something running here etcd may come later; without, its absence is a mistake to be told at once."""
        if any(handle.exited is None for handle in self._found):
            await self._register_soon(parts)
        else:
            if not parts.node.hosts_etcd:
                await first_contact(parts.store, parts.node.etcd)
            await parts.registration.register()
        self._registering = self._tasks.start_eternal(parts.registration.keep(), name="registration")

    async def _register_soon(self, parts: Parts) -> None:
        """Now, or in the background: what runs here is served either way. *Errors*: ConflictError."""
        try:
            async with asyncio.timeout(_REGISTERED_SOON_S):
                await parts.registration.register()
        except (EtcdUnavailableError, TimeoutError) as error:
            log.warning("going on without etcd: %s", error or "no answer", extra={"action": "etcd_away"})

    async def _start_controller(self, node: ThisNode) -> None:
        if self._settings.controller:
            child = self._children.add(specs.controller_spec(node))
            await child.ensure(handle for handle in self._found if handle.kind is ProcessKind.CONTROLLER)

    async def _report_ready(self, node: ThisNode) -> None:
        fd = self._settings.ready_fd
        if fd is None:
            return
        host, http_port = self._settings.http_host, self._proxies.port
        if http_port and not await readiness.proxy_answers(host, http_port, self._settings.https, _PROXY_ANSWERS_S):
            log.warning("the proxy does not answer yet", extra={"action": "proxy_silent"})
        readiness.report(fd, node, self._proxies.address)

    # --- down -----------------------------------------------------------------------------------------------------

    async def _end(self, ending: Ending) -> int:
        if self._parts is None:
            await self._undo()
        elif ending is Ending.LEAVE:
            await self._leave(self._parts)
        else:
            await self._step_aside(self._parts)
        return 1 if ending is Ending.FAIL else 0

    async def _leave(self, parts: Parts) -> None:
        leaving = Leaving(parts.supervisor, self._children, parts.registration, self._launcher, self._ending.hurry)
        await cancel_and_wait(self._registering)  # it would register anew what leaving gives back
        await leaving.run(self._ending.drain_s)
        await self._close(parts)
        parts.memory.clear()
        if parts.node.hosts_etcd:
            remove_sockets(self._settings.state)
        if self._settings.owned and parts.node.hosts_etcd:
            forget_data(self._settings)

    async def _step_aside(self, parts: Parts) -> None:
        """Only this process ends. The lease stays: the next agent takes the registration over at once."""
        running = sum(not keeper.record.gone for keeper in parts.supervisor.keepers())
        await self._close(parts)
        log.warning(
            "the agent ends; %d replicas and the proxies go on and wait for the next agent. "
            "To end them: serve-agent stop --state-dir %s",
            running,
            self._settings.state.path,
            extra={"action": "stepped_aside"},
        )

    async def _close(self, parts: Parts) -> None:
        self._settings.state.address.unlink(missing_ok=True)
        await self._server.stop(0.1)
        await self._tasks.close()
        await self._children.close()
        await parts.close()
        await self._launcher.close()

    async def _undo(self) -> None:
        """The start failed: what this agent began ends with it; what it found goes on."""
        self._settings.state.address.unlink(missing_ok=True)
        await self._server.stop(0)
        await self._tasks.close()
        if not any(handle.exited is None for handle in self._found):
            for kind in ProcessKind:
                for child in self._children.of(kind):
                    await child.kill()
            await self._launcher.shutdown()
            remove_sockets(self._settings.state)
        await self._children.close()
        if self._parts is not None:
            await self._parts.close()
        await self._launcher.close()


def kept_node_id(settings: Settings) -> str:
    """Random, once per state dir."""
    path = settings.state.node_id
    if path.exists():
        return path.read_text().strip()
    name = f"{socket.gethostname().split('.')[0][:32] or 'node'}-{secrets.token_hex(3)}"
    path.write_text(f"{name}\n")
    return name


def _read_port(path: os.PathLike[str]) -> int:
    try:
        with open(path) as file:
            return int(file.read().strip() or 0)
    except (OSError, ValueError):
        return 0
