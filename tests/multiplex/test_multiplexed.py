"""`serve.multiplexed` from a deployment's side."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from serve_rt.context import RequestContext, current_request
from serve_rt.multiplex.decorator import multiplexed, unload_all
from serve_rt.multiplex.held import held


class Model:
    def __init__(self, name: str, gone: list[str]) -> None:
        self.name, self.gone = name, gone

    def __del__(self) -> None:
        self.gone.append(self.name)


class Host:
    def __init__(self) -> None:
        self.loads: list[str] = []
        self.gone: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()

    @multiplexed(max_num_models_per_replica=2)
    async def load(self, model_id: str) -> Model:
        self.loads.append(model_id)
        await self.gate.wait()
        if model_id == "bad":
            raise ValueError("bad model")
        return Model(model_id, self.gone)

    @multiplexed(max_num_models_per_replica=1)
    async def other(self, model_id: str) -> str:
        return "other " + model_id


@pytest.fixture(autouse=True)
def replica(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process plays one: outside of replicas loaders refuse to work."""
    monkeypatch.setattr(held, "_watcher", lambda _models: None)


def test_outside_of_a_replica_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "_watcher", None)
    with pytest.raises(RuntimeError, match=r"can only be used within a deployment.*_local_testing_mode"):
        asyncio.run(Host().load("a"))


async def _in_request(step: Callable[[], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        current_request.set(RequestContext())
        return await step()

    return await asyncio.create_task(run())


def test_least_recently_used_goes_and_is_told_once() -> None:
    async def main() -> None:
        host = Host()
        for name in ("a", "b", "a", "c", "a"):
            assert (await host.load(name)).name == name
        gc.collect()
        assert host.loads == ["a", "b", "c"] and host.gone == ["b"]
        await unload_all(host)
        assert sorted(host.gone) == ["a", "b", "c"]

    asyncio.run(main())


def test_a_model_in_use_is_never_dropped() -> None:
    async def main() -> None:
        host, release = Host(), asyncio.Event()

        async def use(name: str) -> None:
            await host.load(name)
            await release.wait()

        users = [asyncio.create_task(_in_request(lambda name=name: use(name))) for name in ("a", "b")]  # type: ignore[misc]
        await asyncio.sleep(0.01)
        third = asyncio.create_task(_in_request(lambda: host.load("c")))
        await asyncio.sleep(0.05)
        assert host.loads == ["a", "b"] and not host.gone
        release.set()
        await asyncio.gather(*users)
        users.clear()
        assert (await asyncio.wait_for(third, 5)).name == "c"
        assert host.gone == ["a"]

    asyncio.run(main())


def test_different_models_load_side_by_side_and_one_model_once() -> None:
    async def main() -> None:
        host = Host()
        host.gate.clear()
        tasks = [asyncio.create_task(host.load(name)) for name in ("a", "b", "a")]
        await asyncio.sleep(0.01)
        assert host.loads == ["a", "b"]
        host.gate.set()
        first, _, again = await asyncio.gather(*tasks)
        assert first is again

    asyncio.run(main())


def test_a_failed_load_is_tried_again() -> None:
    async def main() -> None:
        host = Host()
        for _ in range(2):
            with pytest.raises(ValueError, match="bad model"):
                await host.load("bad")
        assert host.loads == ["bad", "bad"]

    asyncio.run(main())


def test_two_loaders_of_one_class_do_not_share() -> None:
    async def main() -> None:
        host = Host()
        await host.load("a")
        assert await host.other("a") == "other a"

    asyncio.run(main())


def test_what_is_refused() -> None:
    with pytest.raises(TypeError, match="async"):
        multiplexed(lambda self, model_id: None)  # type: ignore[arg-type, return-value]
    with pytest.raises(TypeError, match="integer"):
        multiplexed(max_num_models_per_replica="3")  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="positive"):
        multiplexed(max_num_models_per_replica=0)

    async def main() -> None:
        with pytest.raises(ValueError, match="empty"):
            await Host().load("")
        with pytest.raises(TypeError, match="string"):
            await Host().load(3)  # type: ignore[arg-type]

    asyncio.run(main())
