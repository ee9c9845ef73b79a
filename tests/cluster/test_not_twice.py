"""Replicas that end themselves at random under POST load: what is not safe to run twice never begins twice."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.cluster.conftest import ClusterFactory, Show
from tests.cluster.harness import LocalCluster
from tests.cluster.processes import eventually
from tests.load.outcomes import Report
from tests.load.process import LoadProcess

DEATHS = 4
"""Few: a replica that dies again and again is started later and later."""
ROUNDS = 15


def test_work_that_is_not_retry_safe_never_begins_twice(cluster_of: ClusterFactory, show: Show) -> None:
    report, ledger = _posts_to_replicas_that_die(cluster_of())
    show("not twice", report)
    _judge(report, ledger)


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_work_that_is_not_retry_safe_never_begins_twice_for_long(cluster_of: ClusterFactory, show: Show) -> None:
    cluster = cluster_of()
    for number in range(ROUNDS):  # each with replicas of its own, as a new version has
        report, ledger = _posts_to_replicas_that_die(cluster, ledger=f"ledger{number}")
        show(f"not twice, round {number}", report)
        _judge(report, ledger)


def test_negative_control_with_the_old_rule_work_begins_twice(cluster_of: ClusterFactory, show: Show) -> None:
    """The rule that seems right: retry when no Accepted was seen. The handler had begun all the same."""
    report, ledger = _posts_to_replicas_that_die(cluster_of(disable="retry-rule"))
    show("not twice, with the old rule", report)
    assert max(ledger.values()) > 1, "the protection makes no difference: the tests above cannot fail"


def _judge(report: Report, ledger: Counter[str]) -> None:
    twice = [nonce for nonce, times in ledger.items() if times > 1]
    assert not twice, f"{len(twice)} requests began twice: {twice[:5]}"
    answered = [record for record in report.records if record.status == 200]
    assert not [record for record in answered if record.nonce not in ledger], "answered without having run"
    # 408: it waited for a replica until its deadline, while both were down.
    assert {record.status for record in report.records} <= {200, 408, 502, 503}, report.summary()
    died = [record for record in report.records if record.status == 502]
    assert any(record.nonce in ledger for record in died), "no death took a request along: the fault did not bite"
    assert not [record for record in died if "not started" in record.reason], "what did not start is tried again"


def _posts_to_replicas_that_die(cluster: LocalCluster, *, ledger: str = "ledger") -> tuple[Report, Counter[str]]:
    """What the clients saw, and how often each request began."""
    path = cluster.folder / ledger
    cluster.deploy("suicidal", num_replicas=2, arguments={"ledger": str(path), "share": 0.02})
    cluster.await_replicas(2)
    pids: set[int] = set()

    def died() -> bool:
        pids.update(int(line.split()[1]) for line in path.read_text().splitlines())
        return len(pids) >= DEATHS + 2

    with LoadProcess(cluster.node.http_port, rate_per_s=100, shooter="echo_post", deadline_s=5.0) as load:
        eventually(died, 60, f"{DEATHS} deaths")
    return load.report, Counter(line.split()[0] for line in path.read_text().splitlines())
