"""The controller as a process on a real etcd: SIGTERM gives the key away at once, SIGKILL leaves it to the lease."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from serve_rt.credentials import ClusterToken
from serve_rt.etcd import EtcdClient, Events, Keys
from serve_rt.model.cluster import LeaderRecord
from serve_rt.model.ids import NodeId
from serve_rt.model.starts import ControllerStart, EtcdAddress
from serve_rt.wire.records import decode, encode
from tests.etcd.etcd_server import EtcdServer

KEYS = Keys("process")
PROGRAM = "import json, sys; from serve_rt.controller.main import run; sys.exit(run(json.loads(sys.argv[1])))"


@pytest.fixture
def server() -> Iterator[EtcdServer]:
    server = EtcdServer()
    try:
        asyncio.run(server.start())
        yield server
    finally:
        server.close()


class Controller:
    def __init__(self, server: EtcdServer, folder: Path, node: str) -> None:
        ClusterToken.create(folder / "token")
        start = ControllerStart(
            KEYS.cluster,
            NodeId(node),
            "127.0.0.1",
            str(folder / "token"),
            EtcdAddress((server.endpoint,)),
            str(folder),
        )
        argv = [sys.executable, "-c", PROGRAM, json.dumps(json.loads(encode(start)))]
        with (folder / f"{node}.log").open("wb") as log:
            self.process = subprocess.Popen(
                argv, stderr=log, env={**os.environ, "SERVE_TEST_WAITS": "leader_lease_s=4"}
            )

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


async def leader(store: EtcdClient, other_than: int = 0, limit_s: float = 30.0) -> tuple[LeaderRecord, float]:
    """The leader's record and when it was seen, once its pid is another one."""
    async with asyncio.timeout(limit_s), aclosing(store.watch(KEYS.leader)) as changes:
        async for change in changes:
            kvs = [e.kv for e in change.events] if isinstance(change, Events) else list(change.items.values())
            for kv in kvs:
                if kv.value and (record := decode(kv.value, LeaderRecord)).pid != other_than:
                    return record, time.monotonic()
    raise AssertionError("the watch ended")


@pytest.mark.parametrize(("number", "limit_s"), [(signal.SIGTERM, 2.0), (signal.SIGKILL, 7.0)], ids=["term", "kill"])
async def test_another_leads_after(number: signal.Signals, limit_s: float, server: EtcdServer, tmp_path: Path) -> None:
    store = EtcdClient([server.endpoint])
    first = Controller(server, tmp_path, "a")
    second: Controller | None = None
    try:
        record, _ = await leader(store)
        assert record.pid == first.process.pid
        second = Controller(server, tmp_path, "b")
        await asyncio.to_thread(wait_for_candidate, tmp_path / "b.log")
        began = time.monotonic()
        first.process.send_signal(number)
        code = await asyncio.to_thread(first.process.wait, 5)
        ended_s = time.monotonic() - began
        record, seen = await leader(store, other_than=first.process.pid)
        print(f"{number.name}: process ended after {ended_s:.2f} s, new leader after {seen - began:.2f} s")
        assert record.pid == second.process.pid
        assert seen - began < limit_s
        assert code == (0 if number is signal.SIGTERM else -signal.SIGKILL)
    finally:
        for controller in (first, second):
            if controller is not None:
                controller.kill()
        await store.close()


def wait_for_candidate(log: Path) -> None:
    deadline = time.monotonic() + 20
    while "action=candidate" not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
