"""A replica dies or hangs under load: nothing retry-safe is lost, and it is replaced."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cluster.conftest import ClusterFactory, Show
from tests.cluster.faults import Freeze, Kill, Together, applied, inject
from tests.cluster.harness import LocalCluster
from tests.cluster.processes import HandleFile, ProcessId, eventually
from tests.load.outcomes import Report
from tests.load.process import LoadProcess

RATE = 50.0
SCHEDULING_S = 1.0
"""A busy machine's share of a promised time."""
STARTS_S = 1.0
"""What a replica without a slow constructor may take from its fork to its first answer here."""


def test_killed_replica_loses_nothing_and_comes_back(cluster_of: ClusterFactory, show: Show) -> None:
    cluster = cluster_of()
    cluster.deploy("echo", num_replicas=2)
    victim = cluster.await_replicas(2)[0]

    with LoadProcess(cluster.node.http_port, rate_per_s=RATE) as load:
        time.sleep(1.0)  # load before the fault
        inject(Kill(victim.process))
        after = eventually(
            lambda: [h for h in cluster.node.replicas() if h.name == victim.name and h.process != victim.process],
            10, "the same replica id runs again",
        )  # fmt: skip
        cluster.await_replicas(2)
        pid = after[0].process.pid
        eventually(lambda: cluster.node.json("/?nonce=x")["pid"] == pid, 10, "the new process gets requests")
    show("replica kill -9", load.report)

    assert after[0].incarnation > victim.incarnation, "a restart keeps the id and raises the incarnation"
    assert victim.process.pid in load.report.pids, "the victim must have served before"
    assert load.report.lost == 0 and load.report.refused == 0, load.report.summary()


@pytest.mark.chaos
@pytest.mark.timeout(300)
def test_a_replica_killed_every_five_seconds_for_a_minute(cluster_of: ClusterFactory, show: Show) -> None:
    """T5."""
    cluster = cluster_of()
    cluster.deploy("echo", num_replicas=3)
    cluster.await_replicas(3)
    back_s = []
    with LoadProcess(cluster.node.http_port, rate_per_s=100) as load:
        for round_ in range(12):
            victim = cluster.await_replicas(3)[round_ % 3]
            inject(Kill(victim.process))
            killed = time.monotonic()
            await_successor(cluster, victim)
            back_s.append(time.monotonic() - killed)
            time.sleep(max(0.0, killed + 5.0 - time.monotonic()))
    show("a kill -9 every 5 s", load.report)
    print(f"    ready again after {max(back_s[:3]):.2f} s, {max(back_s):.2f} s with the back-off of the often killed")
    assert load.report.lost == 0 and load.report.refused == 0, load.report.summary()
    assert max(back_s[:3]) <= STARTS_S + 1.0 + SCHEDULING_S


def await_successor(cluster: LocalCluster, victim: HandleFile) -> None:
    """All three are ready, and the victim is another process."""

    def there() -> bool:
        return any(h.name == victim.name and h.process != victim.process for h in cluster.await_replicas(3))

    eventually(there, 10, "it runs again")


def test_all_replicas_killed_at_once_and_what_comes_meanwhile_waits(cluster_of: ClusterFactory, show: Show) -> None:
    """T6: it waits in the proxy for the replicas that start, all at the same time."""
    cluster = cluster_of()
    cluster.deploy("echo", num_replicas=3, arguments={"start_s": 1.0})
    victims = cluster.await_replicas(3)
    with LoadProcess(cluster.node.http_port, rate_per_s=RATE) as load:
        time.sleep(0.5)
        inject(Together([Kill(victim.process) for victim in victims]))
        cluster.await_replicas(3)
        time.sleep(0.5)
    show("all replicas kill -9", load.report)
    assert {victim.process.pid for victim in victims} & load.report.pids, "they served before"
    twice = [record for record in load.report.records if record.status == 502]
    assert load.report.lost == len(twice) <= 1, load.report.summary()  # one that two of the dying had in turn
    assert load.report.refused == 0
    assert 1.0 < load.report.latency_s(1.0) <= 1.0 + STARTS_S + 1.0 + SCHEDULING_S, load.report.summary()


def test_frozen_replica_is_taken_out_then_killed(cluster_of: ClusterFactory, show: Show) -> None:
    """T18 and P5: out of rotation within 5 s, killed within 15."""
    cluster = cluster_of()
    cluster.deploy("echo", num_replicas=2)
    victim = cluster.await_replicas(2)[0]

    with LoadProcess(cluster.node.http_port, rate_per_s=RATE, deadline_s=15.0) as load:
        time.sleep(1.0)
        with applied(Freeze(victim.process)):
            frozen_at = time.monotonic()
            eventually(lambda: not victim.process.alive(), 15 + SCHEDULING_S, "the frozen replica is killed")
            killed_after_s = time.monotonic() - frozen_at
            cluster.await_replicas(2)
    show("replica SIGSTOP", load.report)

    print(f"killed after {killed_after_s:.1f} s")
    assert killed_after_s > 8, "a hiccup is not a death"
    assert load.report.lost == 0, load.report.summary()
    late = [record for record in load.report.records if record.latency_s > 5.5]
    assert not late, f"out of rotation within 5 s, but {len(late)} requests took longer"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_signalled_replica_drains(cluster_of: ClusterFactory, show: Show, signum: int) -> None:
    cluster = cluster_of()
    cluster.deploy("echo", num_replicas=2, arguments={"sleep_ms": 50})
    victim = cluster.await_replicas(2)[0]

    with LoadProcess(cluster.node.http_port, rate_per_s=RATE) as load:
        time.sleep(0.5)
        inject(Kill(victim.process, signum, within_s=25))
        cluster.await_replicas(2)
    show(f"replica {signal.Signals(signum).name}", load.report)
    assert load.report.lost == 0 and load.report.refused == 0, load.report.summary()


def test_work_that_is_not_retry_safe_never_runs_twice(cluster_of: ClusterFactory) -> None:
    """A POST whose replica dies fails once, as 502; its work is not begun again elsewhere."""
    status, begun = _post_and_kill_its_replica(cluster_of(), "/append")
    assert (status, len(begun)) == (502, 1)


def test_negative_control_without_the_rule_it_runs_twice(cluster_of: ClusterFactory) -> None:
    status, begun = _post_and_kill_its_replica(cluster_of(disable="retry-rule"), "/append")
    assert (status, len(begun)) == (200, 2), "the protection makes no difference: the test above cannot fail"


def test_idempotency_key_makes_a_post_retry_safe(cluster_of: ClusterFactory) -> None:
    status, begun = _post_and_kill_its_replica(cluster_of(), "/append", {"idempotency-key": "once"})
    assert (status, len(begun)) == (200, 2)


def _post_and_kill_its_replica(
    cluster: LocalCluster, path: str, headers: Mapping[str, str] | None = None
) -> tuple[int, list[str]]:
    """The status of one POST whose replica was killed at work, and the ledger: one line per begun execution."""
    cluster.deploy("echo", num_replicas=2)
    cluster.await_replicas(2)
    ledger = cluster.folder / "ledger"
    body = json.dumps({"file": str(ledger), "nonce": "once", "sleep_s": 2.0}).encode()
    with ThreadPoolExecutor(1) as pool:
        posted = pool.submit(cluster.node.http, path, method="POST", body=body, headers=headers)
        begun = eventually(lambda: ledger.exists() and ledger.read_text(), 5, "the work has begun")
        inject(Kill(ProcessId.of(int(begun.split()[1]))))
        status, _ = posted.result(30)
    cluster.await_replicas(2)
    return status, ledger.read_text().splitlines()


def test_replica_that_exits_by_itself_is_restarted(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of()
    cluster.deploy("echo", num_replicas=1)
    [before] = cluster.await_replicas(1)
    status, _ = cluster.node.http("/exit", method="POST", body=b"")
    assert status == 502, "it may have run: not retried, and said so"
    [after] = cluster.await_replicas(1)
    assert after.name == before.name and after.process != before.process


def test_routers_drop_a_dead_replica_though_nobody_tells_them(cluster_of: ClusterFactory, show: Show) -> None:
    report = _load_while_a_replica_dies_untold(cluster_of())
    show("agent, then replica kill -9", report)
    assert report.lost == 0 and report.refused == 0, report.summary()


def test_negative_control_without_local_eject_requests_are_lost(cluster_of: ClusterFactory, show: Show) -> None:
    report = _load_while_a_replica_dies_untold(cluster_of(disable="local-eject"))
    show("agent, then replica kill -9, without local-eject", report)
    assert report.lost or report.refused, "the protection makes no difference: the test above cannot fail"


def _load_while_a_replica_dies_untold(cluster: LocalCluster) -> Report:
    """A living agent takes a dead replica out of the feed in milliseconds; without one the broken stream must do."""
    cluster.deploy("echo", num_replicas=2)
    victim = cluster.await_replicas(2)[0]
    with LoadProcess(cluster.node.http_port, rate_per_s=RATE, deadline_s=5.0) as load:
        time.sleep(0.5)
        inject(Kill(cluster.node.agent))
        inject(Kill(victim.process))
        time.sleep(2.0)  # long enough for 100 requests that nobody warns
        cluster.node.start()
        cluster.await_replicas(2)
    assert victim.process.pid in load.report.pids, "the victim must have served before"
    return load.report
