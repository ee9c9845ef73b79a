"""Garbage, halves and vanishing clients do not disturb the launcher."""

from __future__ import annotations

import asyncio
import json

import pytest

from serve_rt.agents.launcher.lines import MAX_LINE_BYTES, Inbox, LineTooLong
from tests.launcher.conftest import Node, next_exit, run


def test_lines_are_cut_wherever_they_arrive() -> None:
    inbox = Inbox()
    assert inbox.feed(b'{"a"') == []
    assert inbox.feed(b":1}\n\n{") == [b'{"a":1}', b""]
    assert inbox.feed(b"}\n") == [b"{}"]


@pytest.mark.parametrize("end", [b"", b"\n", b"\nshort"])
def test_a_line_without_end_is_refused(end: bytes) -> None:
    inbox = Inbox()
    with pytest.raises(LineTooLong):
        for _ in range(3):
            inbox.feed(b"x" * (MAX_LINE_BYTES // 2) + (end if _ == 2 else b""))


def test_garbage_gets_an_answer_and_changes_nothing(node: Node) -> None:
    async def check() -> None:
        async with node.launcher() as client:
            reader, writer = await asyncio.open_unix_connection(str(node.state.launcher_socket))
            bad = [b"\xff\x00", b"[]", b"{}", b'{"id":"x"}', b'{"id":1}', b'{"id":2,"op":"dance"}', b"[" * 5000]
            bad += [b'{"id":3,"op":"spawn"}', b'{"id":4,"op":"spawn","spec":{"kind":"cat"}}']
            bad += [b'{"id":5,"op":"signal","name":1}', b'{"id":6,"op":"bind_http","host":"x","port":-4,"slots":1}']
            bad += [b'{"id":7,"op":"preload","modules":5}', b'{"id":8,"op":"forget","name":[],"incarnation":{}}']
            for one in bad:
                writer.write(one + b"\n")
                answer = json.loads(await asyncio.wait_for(reader.readline(), 5))
                assert answer["error"]["message"], one
            writer.write(b'{"id":9,"op":"status"}\n')
            assert json.loads(await asyncio.wait_for(reader.readline(), 5))["result"]["running"] == 0
            writer.write(b"x" * (MAX_LINE_BYTES + 10))
            assert "not the launcher's protocol" in (await asyncio.wait_for(reader.readline(), 5)).decode()
            assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()
            assert await client.handles() == ()

    run(check())


def test_a_client_that_vanishes_after_half_a_line(node: Node) -> None:
    async def check() -> None:
        async with node.launcher() as client:
            for _ in range(3):
                _, writer = await asyncio.open_unix_connection(str(node.state.launcher_socket))
                writer.write(b'{"id":1,"op":"sp')
                writer.transport.abort()
            spec = node.spec("exit_with", start={"code": 0})
            await client.spawn(spec)
            assert (await next_exit(client, spec)).returncode == 0

    run(check())


def test_a_client_that_leaves_while_its_process_is_forked(node: Node) -> None:
    async def check() -> None:
        spec = node.spec("exit_with", start={"code": 4})
        async with node.launcher() as client:
            asking = asyncio.create_task(client.spawn(spec))
            await asyncio.sleep(0)
            asking.cancel()
        async with node.launcher() as client:
            await client.spawn(spec)
            assert (await next_exit(client, spec)).returncode == 4

    run(check())
