"""Nodes on machines of their own, and a network between them that loses things without a word."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cluster.conftest import Show
from tests.cluster.faults import Kill, applied
from tests.cluster.harness import Node
from tests.cluster.machines import Loses, MachinesCluster, Unplugged, machines_cluster, why_not
from tests.cluster.processes import HandleFile, eventually, processes_of
from tests.load.outcomes import Report
from tests.load.process import LoadProcess

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

RATE = 50.0
EJECTED_S = 4.0
BACK_S = 5.0
REPLACED_S = 20.0
SCHEDULING_S = 1.0
"""A busy machine's share of a promised time."""
POSTS = 30
"""At once: enough for both replicas to get some, whichever looked slow a moment before."""


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> Iterator[MachinesCluster]:
    with machines_cluster(2) as made:
        request.node._clusters = [made]
        yield made


def deployed(cluster: MachinesCluster, count: int) -> tuple[Node, Node, list[HandleFile]]:
    """The node whose proxy is asked, the other one, and the replicas there."""
    asked, other = cluster.nodes
    cluster.deploy("echo", num_replicas=count, arguments={"start_s": 0.2})
    cluster.await_replicas(count)
    there = other.replicas()
    assert there and asked.replicas(), "each node has some: they are spread"
    eventually(lambda: serving(asked) >= {handle.process.pid for handle in there}, 10, "all replicas serve")
    return asked, other, there


def serving(node: Node) -> set[int]:
    return {node.json("/?nonce=x")["pid"] for _ in range(8)}


def test_answers_that_vanish_on_the_way(cluster: MachinesCluster, show: Show) -> None:
    """T14: requests arrive, answers do not. What may run again is answered by others; the rest fails once, as unknown,
    and is never begun twice."""
    asked, _, there = deployed(cluster, 2)
    pids = {handle.process.pid for handle in there}
    here, away = cluster.machines
    fault = Loses(cluster.network, sender=away, receiver=here, port=9)
    ledger = cluster.folder / "ledger"

    def post(number: int) -> tuple[int, bytes]:
        body = json.dumps({"file": str(ledger), "nonce": f"once{number}", "sleep_s": 0.2}).encode()
        return asked.http("/append", method="POST", body=body)

    with ThreadPoolExecutor(POSTS) as pool, load_on(asked) as load:
        time.sleep(1.0)
        fault.apply()
        posted = [pool.submit(post, number) for number in range(POSTS)]
        fault.verify()
        answers = [each.result(30) for each in posted]
        time.sleep(1.0)
        fault.heal()
        back_s = seconds_until_served_by(asked, pids)
    show("answers lost on the way", load.report)
    print(f"back after {back_s:.1f} s; POSTs {Counter(status for status, _ in answers)}")

    check(load.report, back_s)
    begun = [tuple(line.split()) for line in ledger.read_text().splitlines()]
    assert len(begun) == len({nonce for nonce, _ in begun}), "begun twice"
    lost = [body for status, body in answers if status != 200]
    assert lost and len(lost) <= sum(int(pid) in pids for _, pid in begun), "who fails had begun over there"
    assert all(b"unknown" in body or b"started" in body for body in lost)
    assert there == cluster.nodes[1].replicas(), "healthy replicas were not restarted"


@pytest.mark.chaos
def test_a_link_that_goes_silent_both_ways(cluster: MachinesCluster, show: Show) -> None:
    """T10."""
    asked, other, there = deployed(cluster, 2)
    pids = {handle.process.pid for handle in there}
    here, away = cluster.machines
    fault = Loses(cluster.network, sender=away, receiver=here, port=9, both=True)
    with load_on(asked) as load:
        time.sleep(1.0)
        with applied(fault):
            time.sleep(7.0)
        back_s = seconds_until_served_by(asked, pids)
    show("half-open link", load.report)
    print(f"back after {back_s:.1f} s")
    check(load.report, back_s)
    assert there == other.replicas(), "healthy replicas were not restarted"


@pytest.mark.chaos
@pytest.mark.timeout(240)
def test_a_node_without_power(cluster: MachinesCluster, show: Show) -> None:
    """T6, T9 and P6: off without a word, replaced elsewhere within 20 s, one copy within 5 s of its return."""
    asked, other, there = deployed(cluster, 4)
    here, away = cluster.machines
    fault = Unplugged(cluster.network, away, here, port=9)
    with load_on(asked) as load:
        time.sleep(1.0)
        fault.apply()
        began = time.monotonic()
        for process, _ in processes_of(other.state.path):
            Kill(process).apply()
        fault.verify()
        eventually(lambda: len(asked.replicas()) == 4, REPLACED_S + 15, "replacements run on the node that is left")
        cluster.nodes.remove(other)
        cluster.await_replicas(4, timeout_s=15)
        replaced_s = time.monotonic() - began
        fault.heal()
        cluster.nodes.append(other)
        other.start()
        began = time.monotonic()
        eventually(lambda: not other.replicas() and len(asked.replicas()) == 4, 15, "one copy of each")
        single_s = time.monotonic() - began
    show("node without power", load.report)
    print(f"replaced after {replaced_s:.1f} s; one copy {single_s:.1f} s after the return")
    assert {handle.process.pid for handle in there} & load.report.pids, "they served before"
    check(load.report, 0.0)
    assert replaced_s <= REPLACED_S + 2.0 + SCHEDULING_S
    assert single_s <= 5.0 + SCHEDULING_S


def load_on(node: Node) -> LoadProcess:
    return LoadProcess(node.http_port, host=node.http_host, rate_per_s=RATE, deadline_s=10.0)


def check(report: Report, back_s: float) -> None:
    assert report.lost == 0 and report.refused == 0, report.summary()
    assert report.latency_s(1.0) <= EJECTED_S + SCHEDULING_S, report.summary()
    assert back_s <= BACK_S + SCHEDULING_S


def seconds_until_served_by(node: Node, pids: set[int]) -> float:
    began = time.monotonic()
    eventually(lambda: serving(node) & pids, 30, "the replicas over there serve again")
    return time.monotonic() - began
