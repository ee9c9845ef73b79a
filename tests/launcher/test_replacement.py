"""The launcher dies; the next one finds what runs, sees its end, and gets the listening sockets back."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from serve_rt.agents.launcher import http_sockets
from serve_rt.agents.launcher.client import LauncherClient
from serve_rt.agents.launcher.handle_files import HandleFiles
from serve_rt.agents.launcher.records import Handle, ProcessKind
from serve_rt.errors import ConflictError, UnavailableError
from tests.launcher.conftest import Node, by_name, is_alive, kill_launcher, next_exit, run, until


def test_no_launcher_and_none_wanted(node: Node) -> None:
    async def check() -> None:
        with pytest.raises(UnavailableError, match="no launcher answers"):
            await LauncherClient.connect(node.state, start_if_absent=False)

    run(check())


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_survivors_are_found_watched_and_signalled(node: Node, signum: int) -> None:
    async def check() -> None:
        first, second = node.spec("sleep"), node.spec("leave_orphans", "app#two#abcdef")
        async with node.launcher() as client:
            one, two = await client.spawn(first), await client.spawn(second)
            left = (await node.told(second))["left"]
            old = await client.status()
            os.kill(old.pid, signum)
            async with asyncio.timeout(5):
                await client.closed.wait()
            with pytest.raises(UnavailableError):
                await client.spawn(node.spec("sleep", "app#three#abcdef"))
        async with node.launcher() as client:
            assert (await client.status()).pid != old.pid
            assert [pid for pid in (old.pid, *old.nursery_pids) if is_alive(pid)] == []
            found = by_name(await client.handles())
            assert found[first.name] == one and found[second.name] == two
            assert one.alive() and two.alive()
            assert await client.spawn(first) == one, "asked again: the first outcome"
            await client.signal(*first.key, signal.SIGTERM)
            ended = await next_exit(client, first)
            assert ended.signal is None and ended.returncode is None and "unseen" in ended.describe()
            await client.kill_group(*second.key)
            assert [pid for pid in (two.pid, *left) if is_alive(pid)] == [], "also orphans that went to process 1"

    run(check())


def test_an_end_between_two_launchers_is_told(node: Node) -> None:
    async def check() -> None:
        spec = node.spec("sleep")
        async with node.launcher() as client:
            handle = await client.spawn(spec)
            await kill_launcher(client)
        os.kill(handle.pid, signal.SIGKILL)
        await until(lambda: not is_alive(handle.pid), "it ends")
        async with node.launcher() as client:
            assert (await next_exit(client, spec)).describe() == "it ended unseen"

    run(check())


def test_a_reservation_without_a_process_is_told_as_an_end(node: Node) -> None:
    """The launcher died between the reservation and the fork; a damaged file stops nobody."""

    async def check() -> None:
        spec = node.spec("sleep")
        HandleFiles(node.state.handles).reserve(Handle(spec.kind, spec.name, spec.incarnation, spec))
        (node.state.handles / "torn.1.json").write_bytes(b'{"kind":')
        async with node.launcher() as client:
            assert "before it was started" in (await next_exit(client, spec)).describe()
            await client.forget(*spec.key)
            assert await client.handles() == ()
            assert [path.name for path in node.state.handles.iterdir()] == ["torn.1.damaged"]

    run(check())


def test_a_stranger_with_the_same_pid_is_left_alone(node: Node) -> None:
    """The machine, or only the pid, was used anew since the handle was written."""

    async def check() -> None:
        stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
        try:
            spec = node.spec("sleep")
            async with node.launcher() as client:
                await client.spawn(spec)
                await kill_launcher(client)
            path = HandleFiles(node.state.handles).path(*spec.key)
            record = json.loads(path.read_text())
            real = record["pid"]
            path.write_text(json.dumps({**record, "pid": stranger.pid}))
            async with node.launcher() as client:
                assert "unseen" in (await next_exit(client, spec)).describe()
                await client.kill_group(*spec.key)
            assert stranger.poll() is None
            os.kill(real, signal.SIGKILL)
        finally:
            stranger.kill()
            stranger.wait()

    run(check())


def test_two_agents_start_one_launcher(node: Node) -> None:
    async def check() -> None:
        clients = await asyncio.gather(*(node.connect() for _ in range(4)))
        assert len({(await client.status()).pid for client in clients}) == 1
        for client in clients:
            await client.close()

    run(check())


def test_a_dead_fork_parent_is_replaced_and_its_children_stay(node: Node) -> None:
    async def check() -> None:
        async with node.launcher() as client:
            spec = node.spec("sleep")
            handle = await client.spawn(spec)
            for pid in (await client.status()).nursery_pids:
                os.kill(pid, signal.SIGKILL)
            later = await client.spawn(node.spec("sleep", "app#two#abcdef"))
            assert handle.alive() and later.alive()
            os.kill(handle.pid, signal.SIGKILL)
            assert (await next_exit(client, spec)).signal == signal.SIGKILL, "the launcher is its parent now"

    run(check())


# --- sockets ------------------------------------------------------------------------------------------------------


async def ask_worker(port: int) -> int:
    """The pid of the worker that took the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(5):
            return int(await reader.read())
    finally:
        writer.close()


def test_connections_wait_while_a_worker_is_replaced(node: Node) -> None:
    async def check() -> None:
        async with node.launcher() as client:
            port = await client.bind_http("127.0.0.1", 0, 1)
            assert await client.bind_http("127.0.0.1", port, 1) == port
            first = node.spec("accept", "proxy-0", kind=ProcessKind.PROXY, http_slot=0)
            handle = await client.spawn(first)
            assert (await node.told(first))["port"] == port
            assert await ask_worker(port) == handle.pid
            await client.kill_group(*first.key)
            waiting = [asyncio.create_task(ask_worker(port)) for _ in range(20)]
            await asyncio.wait(waiting, timeout=0.05)
            second = node.spec("accept", "proxy-0", 2, kind=ProcessKind.PROXY, http_slot=0)
            successor = await client.spawn(second)
            assert await asyncio.gather(*waiting) == [successor.pid] * 20

    run(check())


def test_every_worker_has_its_own_socket_on_one_port(node: Node) -> None:
    async def check() -> None:
        async with node.launcher() as client:
            port = await client.bind_http("127.0.0.1", 0, 2)
            specs = [node.spec("accept", f"proxy-{n}", kind=ProcessKind.PROXY, http_slot=n) for n in range(2)]
            pids = {(await client.spawn(spec)).pid for spec in specs}
            for spec in specs:
                await node.told(spec)
            seen = {await ask_worker(port) for _ in range(64)}
            assert seen == pids

    run(check())


def test_a_taken_port_is_named_with_its_holder(node: Node) -> None:
    async def check() -> None:
        with socket.socket() as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # a second node would share it in silence
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            async with node.launcher() as client:
                with pytest.raises(ConflictError, match=rf"{port} cannot be bound .* pid {os.getpid()} "):
                    await client.bind_http("127.0.0.1", port, 1)
                assert await client.bind_http("127.0.0.1", 0, 1) != port

    run(check())


def test_the_next_launcher_takes_the_sockets_back(node: Node) -> None:
    async def check() -> None:
        async with node.launcher() as client:
            port = await client.bind_http("127.0.0.1", 0, 1)
            first = node.spec("accept", "proxy-0", kind=ProcessKind.PROXY, http_slot=0, start={"port": port})
            first.start["host"] = "127.0.0.1"
            handle = await client.spawn(first)
            await node.told(first)
            await kill_launcher(client)
            assert await ask_worker(port) == handle.pid
        async with node.launcher() as client:
            assert await client.bind_http("127.0.0.1", port, 1) == port
            assert await ask_worker(port) == handle.pid
            await client.kill_group(*first.key)
            waiting = asyncio.create_task(ask_worker(port))  # nobody accepts, yet nobody is refused
            await asyncio.wait({waiting}, timeout=0.05)
            assert not waiting.done()
            successor = await client.spawn(node.spec("accept", "proxy-0", 2, kind=ProcessKind.PROXY, http_slot=0))
            assert await waiting == successor.pid

    run(check())


def test_where_sockets_cannot_be_taken_back_no_connection_is_lost(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket bound beside the worker's must not listen: the kernel would send it connections nobody accepts."""

    def forbidden(_pidfd: int, _fd: int) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(http_sockets, "pidfd_getfd", forbidden)

    async def check() -> None:
        async with node.launcher() as client:
            port = await client.bind_http("127.0.0.1", 0, 1)
            start = {"host": "127.0.0.1", "port": port}
            worker = node.spec("accept", "proxy-0", kind=ProcessKind.PROXY, http_slot=0, start=start)
            handle = await client.spawn(worker)
            await node.told(worker)
            await kill_launcher(client)
        sockets = http_sockets.HttpSockets()  # of the next launcher
        sockets.take_back([handle])
        try:
            assert sockets.bind("127.0.0.1", port, 1) == port
            assert {await ask_worker(port) for _ in range(32)} == {handle.pid}
            with socket.socket(fileno=os.dup(sockets.listening(0))) as shared:
                assert shared.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        finally:
            sockets.close()

    run(check())
