"""`choose_replica`, `dispatch` and `broadcast` against real replicas."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

import serve_rt as serve
from serve_rt.errors import (
    DeploymentUnavailableError,
    ReplicaDiedError,
    ReplicaUnavailableError,
    RequestCancelledError,
)
from tests.handle.choice_apps import Front, Node

pytestmark = pytest.mark.cluster
LIGHT = {"num_cpus": 0.1}


@pytest.fixture(scope="module")
def front(own_cluster: str) -> Any:
    node = Node.options(ray_actor_options=LIGHT, num_replicas=2, max_ongoing_requests=2).bind()
    return serve.run(Front.options(ray_actor_options=LIGHT).bind(node), name="choice", route_prefix=None)


@pytest.fixture(scope="module")
def node(front: Any) -> Any:
    handle = serve.get_deployment_handle("_Node", "choice")
    deadline_s = time.monotonic() + 15
    while len({handle.who.remote().result(timeout_s=10)[0] for _ in range(6)}) < 2:
        assert time.monotonic() < deadline_s
    return handle


def other_of(own_cluster: str, name: str, **options: Any) -> Any:
    return serve.run(Node.options(ray_actor_options=LIGHT, **options).bind(), name=name, route_prefix=None)


def test_the_work_runs_where_the_slot_was_taken(front: Any, node: Any) -> None:
    async def main() -> None:
        async with node.choose_replica("an argument", key=1) as selection:
            pid, replica_id = await node.who.dispatch(selection)
            assert replica_id == selection.replica_id and pid > 0
            assert (selection.node_ip, selection.availability_zone) == ("127.0.0.1", None)
            assert selection.port > 0 and selection.node_id and selection.replica_metadata == {}
        async with node.choose_replica() as selection:
            items = node.count.options(stream=True).dispatch(selection, 3)
            assert [item async for item in items] == [0, 1, 2]
        async with node.choose_replica() as selection:
            with pytest.raises(LookupError, match="what"):
                await node.fail.dispatch(selection, "what")
        async with node.choose_replica() as selection:
            assert (await node.tell.dispatch(selection, node.echo.remote(4)))[1] == ((4,), {})

    asyncio.run(main())
    chosen, ran = front.choose.remote().result(timeout_s=10)
    assert chosen == ran


def test_a_taken_slot_is_really_taken_and_given_back(node: Any) -> None:
    async def main() -> None:
        async with node.choose_replica() as a, node.choose_replica() as b:
            async with node.choose_replica() as c, node.choose_replica() as d:
                places = [one.replica_id for one in (a, b, c, d)]
                assert sorted(map(places.count, set(places))) == [2, 2], "two replicas of two slots"
                waiting = node.who.remote()
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(waiting, 0.3)
            await asyncio.wait_for(waiting, 10)
        late = [node.choose_replica() for _ in range(4)]
        for choice in late:
            await asyncio.wait_for(choice.__aenter__(), 10)
        entering = asyncio.ensure_future(node.choose_replica().__aenter__())
        await asyncio.sleep(0.1)
        entering.cancel()  # it waits for a slot: it must not hold one afterwards
        with pytest.raises(asyncio.CancelledError):
            await entering
        for choice in late:
            await choice.__aexit__(None, None, None)
        await asyncio.wait_for(asyncio.gather(*(node.who.remote() for _ in range(8))), 10)

    asyncio.run(main())


def test_what_dispatch_refuses(own_cluster: str, node: Any) -> None:
    other = other_of(own_cluster, "other")

    async def main() -> None:
        async with node.choose_replica() as selection:
            with pytest.raises(ValueError, match=r"chosen by a handle of Deployment\(name='_Node', app='choice'\)"):
                other.who.dispatch(selection)
            with pytest.raises(TypeError, match="Could not serialize argument 0"):
                node.tell.dispatch(selection, asyncio.get_running_loop())
            cancelled = node.hold.dispatch(selection)
            with pytest.raises(RuntimeError, match="dispatched already"):
                node.who.dispatch(selection)
            cancelled.cancel()
            with pytest.raises(RequestCancelledError):
                await cancelled
        async with node.choose_replica() as unused:
            pass
        with pytest.raises(RuntimeError, match="inside the `async with` block"):
            node.who.dispatch(unused)
        async with node.choose_replica() as selection:
            with pytest.raises(LookupError):
                await node.tell.dispatch(selection, node.fail.remote("upstream"))
        await asyncio.wait_for(asyncio.gather(*(node.who.remote() for _ in range(8))), 10)

    asyncio.run(main())
    serve.delete("other")


def test_a_chosen_replica_that_is_gone(own_cluster: str) -> None:
    mortal = other_of(own_cluster, "mortal", max_ongoing_requests=5)

    async def main() -> None:
        async with mortal.choose_replica() as selection, mortal.choose_replica() as second:
            with pytest.raises(ReplicaDiedError):
                await mortal.end.dispatch(second)
            with pytest.raises(ReplicaUnavailableError, match="is unavailable"):
                await mortal.who.dispatch(selection)
        with pytest.raises(DeploymentUnavailableError):
            async with serve.handle.DeploymentHandle("_Node", "nobody").choose_replica():
                pass

    asyncio.run(main())
    serve.delete("mortal")


def test_a_broadcast_reaches_every_replica_also_full_ones(front: Any, node: Any) -> None:
    held = [node.hold.remote() for _ in range(4)]
    pids = {pid for pid, _ in (r for r in node.broadcast("tell", "one").results(timeout_s=10))}
    assert len(pids) == 2, "all slots are taken: a broadcast runs beside the limit"
    assert node.broadcast("let_go").results(timeout_s=10) == [None, None]
    assert {response.result(timeout_s=10) for response in held} == pids
    assert len(front.tell_everybody.remote("two").result(timeout_s=10)) == 2
    assert all(heard[-2:] == ["one", "two"] for heard in node.broadcast("heard").results(timeout_s=10))


def test_errors_of_a_broadcast(node: Any) -> None:
    pid, _ = node.who.remote().result(timeout_s=10)
    response = node.broadcast("fail_on", pid)
    with pytest.raises(LookupError, match="not here"):
        response.results(timeout_s=10)
    kinds = sorted(type(one).__name__ for one in response.results(timeout_s=10, return_exceptions=True))
    assert kinds == ["LookupError", "int"]
    with pytest.raises(ValueError, match="negative"):
        response.results(timeout_s=-1)
    slow = node.broadcast("hang")
    with pytest.raises(TimeoutError, match="within 0.2 s"):
        slow.results(timeout_s=0.2)
    slow.cancel()
    with pytest.raises(RequestCancelledError):
        slow.results(timeout_s=5)

    async def main() -> None:
        inside = node.broadcast("echo", 1)
        with pytest.raises(RuntimeError, match="results_async"):
            inside.results()
        assert await inside.results_async(timeout_s=10) == [((1,), {}), ((1,), {})]
        with pytest.raises(TimeoutError):
            await node.broadcast("hang").results_async(timeout_s=0.05)

    asyncio.run(main())
