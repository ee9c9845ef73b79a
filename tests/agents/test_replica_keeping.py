"""An agent and its replicas, for real; a fake leader writes the assignments."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest

from serve_rt.credentials import ClusterToken, control_channel
from serve_rt.model.ids import ReplicaId
from serve_rt.model.replica import Observed, ReplicaState
from serve_rt.model.routes import RouteTable
from serve_rt.pb import control_pb2 as pb
from serve_rt.wire import records
from serve_rt.wire.services import Stub
from tests.agents import apps
from tests.agents.fake_leader import FakeLeader
from tests.agents.values import REPLICA, assignment
from tests.cluster.harness import LocalCluster, Node
from tests.cluster.processes import ProcessId, eventually

QUIET = ("--no-controller", "--no-proxy")


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> Iterator[LocalCluster]:
    made = LocalCluster(external_etcd=True, disable=getattr(request, "param", ""))
    yield made
    print(made.logs())  # shown by pytest when the test has failed
    made.close()


def started(cluster: LocalCluster, *options: str) -> tuple[Node, FakeLeader]:
    node = cluster.start_node(*QUIET, *options)
    assert cluster.etcd is not None
    return node, FakeLeader(node, cluster.etcd.endpoint)


def process_of(seen: Observed) -> ProcessId:
    return ProcessId.of(seen.pid)


def test_an_assignment_runs_is_drained_and_forgotten(cluster: LocalCluster) -> None:
    node, leader = started(cluster)
    made = leader.assign()
    seen = leader.await_state(ReplicaState.READY)
    assert (seen.incarnation, seen.version, seen.node_id) == (1, "v1", leader.node_id)
    assert process_of(seen).alive()
    leader.drain(made)
    eventually(lambda: leader.observed() is None, 10.0, "the observed record is gone")
    assert not node.handles("replica")
    leader.withdraw()
    eventually(lambda: not list(node.state.assignments.glob("*.json")), 5.0, "the note is gone")


def test_a_killed_replica_is_back_on_its_port_at_once(cluster: LocalCluster) -> None:
    _, leader = started(cluster)
    leader.assign()
    first = leader.await_state(ReplicaState.READY)
    began = time.monotonic()
    os.kill(first.pid, signal.SIGKILL)
    second = leader.await_state(ReplicaState.READY, incarnation=2)
    print(f"ready again after {time.monotonic() - began:.2f} s")
    assert second.address == first.address
    assert second.pid != first.pid
    assert second.restarts == 1


def test_a_constructor_that_raises_ends_in_failed_with_its_traceback(cluster: LocalCluster) -> None:
    _, leader = started(cluster)
    leader.assign(apps.Raises, max_constructor_retry_count=2)
    seen = leader.await_state(ReplicaState.FAILED)
    assert "ValueError: no weights here" in seen.message
    assert seen.incarnation == 2


def test_a_replica_that_exits_at_once_says_how(cluster: LocalCluster) -> None:
    _, leader = started(cluster)
    leader.assign(apps.Leaves, max_constructor_retry_count=1)
    assert "code 3" in leader.await_state(ReplicaState.FAILED).message


def test_a_constructor_that_hangs_is_killed_and_says_where_it_stood(cluster: LocalCluster) -> None:
    """On its thread, in an await, and in C code that lets nothing of the process answer."""
    node, leader = started(cluster)
    hangs = {ReplicaId("app#hello#a"): apps.Hangs, ReplicaId("default#hangs#b"): apps.HangsAwaiting}
    hangs[ReplicaId("app#hello#c")] = apps.HangsInC
    for replica, app in hangs.items():
        leader.assign(app, replica, startup_timeout_s=1.5, max_constructor_retry_count=1)
    for replica, app in hangs.items():
        message = leader.await_state(ReplicaState.FAILED, replica=replica).message
        assert "startup_timeout_s=1.5" in message and "It stood here" in message, message
        where = "__init__" if app is apps.HangsInC else "wait_for_weights"
        assert where in message.partition("It stood here")[2][:1200], message
    assert not node.handles("replica")


def test_a_blob_that_nobody_has_is_told(cluster: LocalCluster) -> None:
    _, leader = started(cluster)
    leader.write(replace(assignment(payload="f" * 64), node_id=leader.node_id))
    assert "is on no agent" in leader.await_state(ReplicaState.BACKOFF).message


def kill_and_restart(node: Node) -> float:
    node.agent.signal(signal.SIGKILL)
    node.wait_agent()
    began = time.monotonic()
    node.start()
    return time.monotonic() - began


def test_a_restarted_agent_adopts(cluster: LocalCluster) -> None:
    node, leader = started(cluster)
    leader.assign()
    first = leader.await_state(ReplicaState.READY)
    process = process_of(first)
    back_s = kill_and_restart(node)
    sessions = leader.registered()
    assert sessions is not None
    eventually(
        lambda: (seen := leader.observed()) is not None and seen.session == sessions.session, 5.0, "observed anew"
    )
    again = leader.observed()
    assert again is not None
    assert (again.state, again.pid, again.incarnation) == (ReplicaState.READY, first.pid, 1)
    assert process.alive()
    assert back_s < 2.0
    os.kill(first.pid, signal.SIGKILL)
    assert leader.await_state(ReplicaState.READY, incarnation=2).address == first.address


@pytest.mark.parametrize("cluster", ["adopt"], indirect=True)
def test_without_adoption_the_replica_is_restarted(cluster: LocalCluster) -> None:
    node, leader = started(cluster)
    leader.assign()
    process = process_of(leader.await_state(ReplicaState.READY))
    kill_and_restart(node)
    leader.await_state(ReplicaState.READY, incarnation=2)
    assert not process.alive()


def test_what_died_while_no_agent_looked_is_restarted(cluster: LocalCluster) -> None:
    node, leader = started(cluster)
    leader.assign()
    first = leader.await_state(ReplicaState.READY)
    node.agent.signal(signal.SIGKILL)
    node.wait_agent()
    os.kill(first.pid, signal.SIGKILL)
    node.start()
    assert leader.await_state(ReplicaState.READY, incarnation=2).address == first.address


def test_without_etcd_a_crashed_replica_restarts_and_a_restarted_agent_adopts(cluster: LocalCluster) -> None:
    node, leader = started(cluster)
    leader.assign()
    first = leader.await_state(ReplicaState.READY)
    assert cluster.etcd is not None
    cluster.etcd.stop()
    os.kill(first.pid, signal.SIGKILL)
    [second] = eventually(lambda: [h for h in node.replicas("app") if h.incarnation == 2], 5.0, "restarted locally")
    node.agent.signal(signal.SIGKILL)
    node.wait_agent()
    node.launch()
    eventually(lambda: node.state.address.exists() and asks(node) == node.agent.pid, 20.0, "the agent serves")
    assert second.process.alive()
    node.await_ready(30.0)
    cluster.etcd.start()
    assert leader.await_state(ReplicaState.READY, incarnation=2, timeout_s=15.0).address == first.address


@pytest.mark.parametrize("cluster", ["local-restart"], indirect=True)
def test_without_local_restarts_a_crashed_replica_waits_for_the_store(cluster: LocalCluster) -> None:
    node, leader = started(cluster)
    leader.assign()
    first = leader.await_state(ReplicaState.READY)
    assert cluster.etcd is not None
    cluster.etcd.stop()
    os.kill(first.pid, signal.SIGKILL)
    with pytest.raises(AssertionError):
        eventually(lambda: [one.incarnation for one in node.replicas("app")] == [2], 1.5, "a local restart")
    cluster.etcd.start()
    leader.await_state(ReplicaState.READY, incarnation=2)


def asks(node: Node) -> int:
    """The pid of the agent that answers at the address of the state dir; 0 when none does."""

    async def identity() -> int:
        address = node.state.address.read_text().strip()
        async with control_channel(address, ClusterToken.read(node.state.token)) as channel:
            stub = Stub(channel, pb.DESCRIPTOR.services_by_name["Agent"])
            try:
                return int((await stub.Identity(pb.IdentityRequest(), timeout=1.0)).pid)
            except Exception:  # not up yet, in whatever way
                return 0

    return asyncio.run(identity())


def test_a_replica_withdrawn_while_the_agent_was_away_is_ended(cluster: LocalCluster) -> None:
    node, leader = started(cluster)
    leader.assign()
    process = process_of(leader.await_state(ReplicaState.READY))
    node.agent.signal(signal.SIGKILL)
    node.wait_agent()
    leader.withdraw()
    node.start()
    eventually(lambda: not process.alive(), 10.0, "the withdrawn replica has ended")
    eventually(lambda: leader.observed() is None, 5.0, "its observed record is gone")


def test_a_frozen_replica_is_out_of_rotation_then_killed(cluster: LocalCluster) -> None:
    _, leader = started(cluster)
    leader.assign()
    first = leader.await_state(ReplicaState.READY)
    began = time.monotonic()
    os.kill(first.pid, signal.SIGSTOP)
    out = leader.await_state(ReplicaState.UNHEALTHY, timeout_s=8.0)
    out_s = time.monotonic() - began
    leader.await_state(ReplicaState.READY, incarnation=2, timeout_s=20.0)
    back_s = time.monotonic() - began
    print(f"out of rotation after {out_s:.1f} s, replaced after {back_s:.1f} s")
    assert "stopped" in out.message
    assert out_s < 5.5
    assert back_s < 17.0


def test_a_push_of_an_old_leader_is_refused(cluster: LocalCluster) -> None:
    node, leader = started(cluster)
    made = leader.assign()
    leader.await_state(ReplicaState.READY)

    async def push(epoch: int, revision: int) -> list[pb.AssignReport]:
        async def pushes() -> AsyncIterator[pb.AssignPush]:
            yield pb.AssignPush(
                epoch=epoch, incarnation="life-1", mod_revision=revision, assignments=[records.encode(made)]
            )
            await asyncio.sleep(1.0)

        async with control_channel(node.address, ClusterToken.read(node.state.token)) as channel:
            stub = Stub(channel, pb.DESCRIPTOR.services_by_name["Agent"])
            return [report async for report in stub.Assign(pushes())]

    first = asyncio.run(push(900, 9000))
    assert not any(report.refused for report in first)
    assert first[-1].highest_epoch == 900
    assert [records.decode(o, Observed).replica_id for o in first[-1].observed] == [REPLICA]
    assert asyncio.run(push(899, 9001))[-1].refused


def test_the_routes_of_a_dead_replica_leave_at_once(cluster: LocalCluster) -> None:
    node, leader = started(cluster)
    leader.assign()
    first = leader.await_state(ReplicaState.READY)
    leader.publish_route(first)

    async def watch() -> list[tuple[float, list[int]]]:
        seen: list[tuple[float, list[int]]] = []
        killed_at = 0.0
        async with control_channel(node.address, ClusterToken.read(node.state.token)) as channel:
            stub = Stub(channel, pb.DESCRIPTOR.services_by_name["Agent"])
            async for update in stub.Feed(pb.FeedRequest(subscriber="test"), timeout=15.0):
                table = records.decode(update.table, RouteTable)
                incarnations = [r.incarnation for d in table.deployments for r in d.replicas]
                seen.append((time.monotonic() - killed_at, incarnations))
                if incarnations == [1] and not killed_at:
                    os.kill(first.pid, signal.SIGKILL)
                    killed_at = time.monotonic()
                if incarnations == [2]:
                    return seen
        return seen

    seen = asyncio.run(watch())
    dropped_s = next(after_s for after_s, incarnations in seen if incarnations == [])
    print(f"out of the routes after {1000 * dropped_s:.0f} ms; {seen}")
    assert dropped_s < 0.1
    assert seen[-1][1] == [2]
