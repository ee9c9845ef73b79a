"""Two proxies share two replicas that take one request at a time: the replicas' count rules, and nobody is starved."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import pytest

from tests.cluster.conftest import ClusterFactory
from tests.cluster.harness import Node
from tests.load.checks import echo, judge
from tests.load.http_client import Connection
from tests.load.outcomes import Verdict

pytestmark = pytest.mark.alone

CONNECTIONS = 32
LOAD_S = 3.0


def test_two_proxies_share_two_replicas_fairly(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of(2)
    cluster.deploy("one_at_a_time", num_replicas=2, max_ongoing_requests=1)
    cluster.await_replicas(2)
    before = [node.json("/-/counters") for node in cluster.nodes]
    answers = asyncio.run(_ask_both(cluster.nodes))
    after = [node.json("/-/counters") for node in cluster.nodes]

    rejected = sum(
        late["rejected_received"] - early["rejected_received"] for early, late in zip(before, after, strict=True)
    )
    per_proxy = [sum(counts.values()) for counts in answers]
    total = sum(per_proxy)
    print(
        f"[fair] {total} answers in {LOAD_S:g} s, {per_proxy} per proxy, {rejected} Rejected "
        f"({rejected / total:.2f} per answer), concurrency seen {sorted(set().union(*answers))}"
    )
    assert set().union(*answers) == {"1 at once"}, answers
    assert all(0.4 <= count / total <= 0.6 for count in per_proxy), per_proxy
    assert rejected <= 2 * total
    assert total > LOAD_S * 2 / 0.02 / 3, "the replicas were idle most of the time: nothing was contended for"


async def _ask_both(nodes: list[Node]) -> list[Counter[str]]:
    answers: list[Counter[str]] = [Counter() for _ in nodes]
    until_s = time.monotonic() + LOAD_S
    async with asyncio.TaskGroup() as group:
        for node, counts in zip(nodes, answers, strict=True):
            for number in range(CONNECTIONS):
                group.create_task(_client(node.http_port, f"{node.http_port}-{number}", counts, until_s))
    return answers


async def _client(port: int, name: str, counts: Counter[str], until_s: float) -> None:
    connection = await Connection.open("127.0.0.1", port)
    shoot = echo()
    number = 0
    while time.monotonic() < until_s:
        number += 1
        shot = shoot(f"{name}-{number}")
        answer = await connection.request("GET", shot.path)
        judged = judge(shot, answer)
        assert judged.verdict is Verdict.OK, (answer.status, bytes(answer.body))
        counts[judged.version] += 1
    connection.close()
