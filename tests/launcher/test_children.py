"""A process from its spawn to its handle's removal, with real forks."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from serve_rt.agents.launcher.children import ENTRY_TRANSITIONS, EntryState
from serve_rt.agents.launcher.handle_files import HandleFiles
from serve_rt.agents.launcher.records import ProcessKind, SpawnSpec
from serve_rt.errors import ConflictError
from tests.launcher.conftest import Node, is_alive, next_exit, run, until


def test_a_child_is_what_its_spec_says(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNWANTED", "x")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "7")

    async def check() -> None:
        async with node.launcher() as client:
            spec = node.spec(
                "surroundings",
                start={"number": 5},
                env={"WANTED": "yes", "CUDA_VISIBLE_DEVICES": ""},
                unset_env=("UNWANTED",),
                cwd=str(node.state.logs),
                threads=3,
            )
            handle = await client.spawn(spec)
            seen = await node.told(spec)
            assert handle.alive() and handle.pid == seen["pid"] == seen["session"]
            assert seen["start"]["number"] == 5
            assert seen["env"]["WANTED"] == "yes" and seen["env"]["CUDA_VISIBLE_DEVICES"] == ""
            assert "UNWANTED" not in seen["env"]
            assert seen["env"]["OMP_NUM_THREADS"] == "3"
            assert seen["env"]["OPENBLAS_NUM_THREADS"] == "7", "what the user set wins"
            assert seen["cwd"] == str(node.state.logs)
            assert seen["path"][0] == spec.sys_path[0]
            assert seen["command"] == spec.title
            assert seen["stdin"] == "/dev/null"
            assert seen["term_is_default"] and seen["blocked"] == []
            assert seen["oom"] == "300"
            assert seen["files"][0] == min(seen["files"][1], 1 << 20)
            assert set(seen["fds"]) <= {0, 1, 2, 3}, "3: the folder that was being listed"
            log = Path(spec.log_path)
            assert log.stat().st_mode & 0o777 == 0o600
            os.kill(handle.pid, signal.SIGTERM)
            assert (await next_exit(client, spec)).signal == signal.SIGTERM

    run(check())


def test_what_an_entry_prints_and_raises_is_in_its_log(node: Node) -> None:
    async def check() -> None:
        async with node.launcher() as client:
            spec = node.spec("raise_error")
            await client.spawn(spec)
            assert (await next_exit(client, spec)).returncode == 70
            assert "ValueError: the entry is broken" in node.log(spec)
            spec = replace(node.spec("x", "app#two#abcdef"), entry="tests.launcher.entries:no_such_entry")
            await client.spawn(spec)
            assert (await next_exit(client, spec)).describe() == "exit code 70"
            assert "no_such_entry" in node.log(spec)

    run(check())


def test_a_program_is_executed(node: Node) -> None:
    async def check() -> None:
        async with node.launcher() as client:
            spec = SpawnSpec(
                kind=ProcessKind.ETCD,
                name="etcd",
                incarnation=1,
                argv=("/bin/sh", "-c", 'echo "$WORD from $PWD; $OMP_NUM_THREADS"; exit 3'),
                env={"WORD": "hello"},
                cwd="/",
                log_path=str(node.state.logs / "etcd.log"),
            )
            await client.spawn(spec)
            assert (await next_exit(client, spec)).returncode == 3
            assert node.log(spec) == "hello from /; \n"
            missing = replace(spec, incarnation=2, argv=("/no/such/program",))
            await client.spawn(missing)
            assert (await next_exit(client, missing)).returncode == 70
            assert "FileNotFoundError" in node.log(spec)

    run(check())


def test_asked_twice_is_started_once(node: Node) -> None:
    async def check() -> None:
        async with node.launcher() as client:
            spec = node.spec("sleep", incarnation=4)
            first, second = await asyncio.gather(client.spawn(spec), client.spawn(spec))
            assert first == second == await client.spawn(replace(spec, start={"other": 1}))
            with pytest.raises(ConflictError, match="incarnation 3 .* is over: 4 is reserved"):
                await client.spawn(replace(spec, incarnation=3))
            with pytest.raises(ConflictError, match="still runs"):
                await client.forget(spec.name, 4)
            await client.kill_group(spec.name, 4)
            ended = await client.spawn(spec)
            assert ended.pid == first.pid and ended.exited is not None and ended.exited.signal == signal.SIGKILL
            await client.forget(spec.name, 4)
            assert await client.handles() == ()
            assert list(node.state.handles.iterdir()) == []

    run(check())


def test_a_handle_file_tells_who_runs(node: Node) -> None:
    async def check() -> None:
        async with node.launcher() as client:
            spec = node.spec("sleep")
            handle = await client.spawn(spec)
            record = json.loads(HandleFiles(node.state.handles).path(spec.name, 1).read_text())
            assert record["kind"] == "replica" and record["pid"] == handle.pid and record["schema"] == 1
            assert record["start_ticks"] == handle.start_ticks
            assert record["spec"]["title"] == spec.title

    run(check())


def test_an_end_is_told_to_those_who_were_away(node: Node) -> None:
    async def check() -> None:
        spec = node.spec("exit_with", start={"code": 5})
        async with node.launcher() as client:
            handle = await client.spawn(spec)
        await until(lambda: not is_alive(handle.pid), "it ends")
        async with node.launcher() as client, node.launcher() as other:
            assert (await next_exit(client, spec)).returncode == 5
            assert (await next_exit(other, spec)).returncode == 5
            await client.forget(*spec.key)
        async with node.launcher() as client:
            assert await client.handles() == () and client.exits.empty()

    run(check())


def test_signal_reaches_the_process_alone(node: Node) -> None:
    async def check() -> None:
        async with node.launcher() as client:
            spec = node.spec("sleep")
            await client.spawn(spec)
            await node.told(spec)
            assert await client.signal(*spec.key, signal.SIGTERM)
            assert (await next_exit(client, spec)).describe() == "killed by SIGTERM"
            assert not await client.signal(*spec.key, signal.SIGTERM)
            assert not await client.signal("nobody", 1, signal.SIGTERM)

    run(check())


@pytest.mark.parametrize("ends_by_itself", [True, False])
def test_nothing_is_left_behind(node: Node, ends_by_itself: bool) -> None:
    """A child in the session, a program and a fork that left it by a double fork."""

    async def check() -> None:
        async with node.launcher() as client:
            neighbour = node.spec("leave_orphans", "app#two#abcdef")
            await client.spawn(neighbour)
            others = (await node.told(neighbour))["left"]
            spec = node.spec("leave_orphans", start={"code": 0} if ends_by_itself else {})
            await client.spawn(spec)
            left = (await node.told(spec))["left"]
            if ends_by_itself:
                assert (await next_exit(client, spec)).returncode == 0
            else:
                assert all(is_alive(pid) for pid in left)
            await client.kill_group(*spec.key)
            assert [pid for pid in left if is_alive(pid)] == []
            assert all(is_alive(pid) for pid in others), "a neighbour keeps what is its own"
            await client.kill_group(*neighbour.key)
            assert [pid for pid in others if is_alive(pid)] == []

    run(check())


def test_shutdown_leaves_no_process_and_no_file(node: Node) -> None:
    async def check() -> None:
        client = await node.connect()
        status = await client.status()
        spec, stubborn = node.spec("leave_orphans"), node.spec("sleep", "app#two#abcdef")
        pids = [(await client.spawn(spec)).pid, (await client.spawn(stubborn)).pid]
        pids += (await node.told(spec))["left"]
        os.kill(pids[1], signal.SIGSTOP)  # SIGTERM does not reach it
        await client.shutdown()
        await until(lambda: not is_alive(status.pid), "the launcher ends")
        assert [pid for pid in (*pids, *status.nursery_pids) if is_alive(pid)] == []
        assert list(node.state.handles.iterdir()) == []
        assert not node.state.launcher_socket.exists()

    run(check())


def test_the_table_of_an_entry_ends() -> None:
    assert ENTRY_TRANSITIONS[EntryState.EXITED] == frozenset()
    assert set(ENTRY_TRANSITIONS) == set(EntryState)
