"""The agent's state dir is damaged, or the agent dies in the middle of writing it: nothing is doubled, nobody else's
process is touched, and what can be adopted is adopted. Real agents; a fake leader writes the assignments.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from serve_rt.model.ids import ReplicaId
from serve_rt.model.replica import Observed, ReplicaState
from tests.agents.fake_leader import FakeLeader
from tests.agents.values import REPLICA
from tests.cluster.faults import Kill, inject
from tests.cluster.harness import LocalCluster, Node
from tests.cluster.processes import ProcessId, eventually, processes_of

QUIET = ("--no-controller", "--no-proxy")


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    made = LocalCluster(external_etcd=True)
    yield made
    print(made.logs())  # shown by pytest when the test has failed
    made.close()


def _started(cluster: LocalCluster) -> tuple[Node, FakeLeader, Observed]:
    node = cluster.start_node(*QUIET)
    assert cluster.etcd is not None
    leader = FakeLeader(node, cluster.etcd.endpoint)
    leader.assign()
    return node, leader, leader.await_state(ReplicaState.READY)


def _kill_agent(node: Node) -> None:
    node.agent.signal(signal.SIGKILL)
    node.wait_agent()


def _replica_processes(cluster: LocalCluster) -> set[int]:
    return {process.pid for process, command in processes_of(cluster.folder) if "serve-rt replica" in command}


def _reported_anew(leader: FakeLeader) -> Observed:
    """By the agent that is registered now."""

    def look() -> Observed | None:
        registered, seen = leader.registered(), leader.observed()
        ready = seen is not None and seen.state is ReplicaState.READY
        return seen if ready and seen and registered and seen.session == registered.session else None

    return eventually(look, 15, "the new agent reports its replica")


# --- damage -------------------------------------------------------------------------------------------------------


def _garbage(node: Node, pattern: str) -> None:
    for path in _some(node, pattern):
        path.write_bytes(b"\x00\xff{garbage" * 7)


def _truncated(node: Node, pattern: str) -> None:
    for path in _some(node, pattern):
        path.write_bytes(path.read_bytes()[:-20])


def _empty(node: Node, pattern: str) -> None:
    for path in _some(node, pattern):
        path.write_bytes(b"")


def _gone(node: Node, pattern: str) -> None:
    for path in _some(node, pattern):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _some(node: Node, pattern: str) -> list[Path]:
    found = sorted(node.state.path.glob(pattern))
    assert found, f"nothing to damage: {pattern}"
    return found


DAMAGES: dict[str, tuple[Callable[[Node, str], None], str]] = {
    f"{damage.__name__.strip('_')} {pattern}": (damage, pattern)
    for damage in (_garbage, _truncated, _empty, _gone)
    for pattern in ("assignments/*.json", "high-water.json", "handles/*.json")
}
DAMAGES["gone assignments"] = (_gone, "assignments")
DAMAGES["gone handles"] = (_gone, "handles")
DAMAGES["gone blobs"] = (_gone, "blobs")


USUAL = ("garbage assignments/*.json", "truncated handles/*.json")


def _damaged(cluster: LocalCluster, names: Iterable[str]) -> None:
    node, leader, first = _started(cluster)
    for name in names:
        damage, pattern = DAMAGES[name]
        _kill_agent(node)
        damage(node, pattern)
        node.start()
        assert _reported_anew(leader).pid == first.pid, f"{name}: it was not adopted"
        assert _replica_processes(cluster) == {first.pid}, name


def test_a_damaged_state_dir_is_started_with_and_nothing_is_doubled(cluster: LocalCluster) -> None:
    _damaged(cluster, USUAL)


@pytest.mark.chaos
def test_every_part_of_the_state_dir_damaged_in_every_way(cluster: LocalCluster) -> None:
    _damaged(cluster, DAMAGES)


def _die_writing(cluster: LocalCluster, moments: Iterable[str]) -> None:
    """Killed at one moment of a write, started again, killed at the next one; the replica lives through all of it."""
    node, leader, first = _started(cluster)
    _kill_agent(node)
    for moment in moments:
        node.launch(fail=f"write.{moment}")
        assert node.wait_agent(20) == -signal.SIGKILL, f"{moment}: it did not come to that write"
        node.close_ready()
        for path in node.state.assignments.glob("*.json"):
            json.loads(path.read_bytes())
    node.start()
    assert _reported_anew(leader).pid == first.pid
    assert _replica_processes(cluster) == {first.pid}


def test_killed_while_writing_it_finds_the_old_note_or_the_new_one(cluster: LocalCluster) -> None:
    _die_writing(cluster, ("half=kill", "renamed=kill"))


@pytest.mark.chaos
def test_killed_at_every_write_of_its_start(cluster: LocalCluster) -> None:
    points = ("begin", "half", "synced", "renamed")
    _die_writing(cluster, [f"{point}=kill@{time}" for time in (1, 2, 3) for point in points])


# --- pids ---------------------------------------------------------------------------------------------------------


def test_a_stranger_that_has_the_pid_of_a_handle_is_never_signalled(cluster: LocalCluster) -> None:
    """Everything of the node is dead. One handle names a living stranger that began at another time, another one a
    stranger of another boot; both replicas are started anew, drained and swept, and the strangers live."""
    node, leader, _ = _started(cluster)
    other = ReplicaId(f"{REPLICA}b")
    leader.assign(replica=other)
    leader.await_state(ReplicaState.READY, replica=other)
    launcher, dead = node.launcher(), [handle.process for handle in node.handles("replica")]
    node.agent.signal(signal.SIGKILL)
    node.wait_agent()
    for process in (launcher, *dead):
        inject(Kill(process))
    strangers = [subprocess.Popen(["sleep", "600"], start_new_session=True) for _ in range(2)]
    try:
        for replica, stranger, changes in (
            (REPLICA, strangers[0], {}),
            (other, strangers[1], {"boot_id": "another", "start_ticks": ProcessId.of(strangers[1].pid).start_ticks}),
        ):
            (path,) = [path for path in node.state.handles.glob("*.json") if path.name.startswith(f"{replica}.")]
            record = json.loads(path.read_text())
            assert {"pid", "boot_id", "start_ticks"} <= record.keys(), "else the stranger is not named by the handle"
            path.write_text(json.dumps({**record, "pid": stranger.pid, **changes}))
        node.start()
        for replica in (REPLICA, other):
            leader.await_state(ReplicaState.READY, replica=replica, incarnation=2)
            leader.withdraw(replica)
        eventually(lambda: not node.handles("replica"), 15, "both replicas are ended")
        node.leave()
        assert [stranger.poll() for stranger in strangers] == [None, None]
    finally:
        for stranger in strangers:
            stranger.kill()
            stranger.wait(5)
