"""No-op requests at 1, 32 and 128 connections: all contenders run side by side, measured in turns (A-B-A-B).

Turns in one run share the machine's mood; figures of different days do not. The client refuses foreign answers, and a
run of ours counts only if the answers came from a replica, not the proxy, over the stream.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
from dataclasses import dataclass, field

from bench.client import Measured
from bench.contenders import ROOT, Contender, Up, contenders

CONNECTIONS = (1, 32, 128)


@dataclass(slots=True)
class Series:
    """All turns of one contender at one number of connections."""

    name: str
    connections: int
    turns: list[Measured] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        return statistics.median(turn.per_second for turn in self.turns)

    @property
    def p50_ms(self) -> float:
        return statistics.median(turn.p50_ms for turn in self.turns)

    @property
    def p99_ms(self) -> float:
        return statistics.median(turn.p99_ms for turn in self.turns)


def ask(up: Up, connections: int, seconds: float, body_before: str = '{"nonce": ', body_after: str = "}") -> Measured:
    """One turn of the client, in a process of its own.

    *Errors*: AssertionError when an answer was wrong, or did not come from a replica over the stream.
    """
    before = up.counters() if up.counters else {}
    command = [sys.executable, "-m", "bench.client", "--port", str(up.port), "--path", up.path]
    command += ["--connections", str(connections), "--seconds", str(seconds)]
    command += ["--body-before", body_before, "--body-after", body_after]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds + 60)
    assert ended.returncode == 0, ended.stderr
    measured = Measured(**json.loads(ended.stdout))
    assert not measured.bad, f"{measured.bad} wrong answers: {measured.first_bad}"
    assert measured.requests and measured.pids, "nothing was answered"
    assert not set(measured.pids) & set(up.proxy_pids), "the proxy answered by itself"
    if up.counters:
        check_counters(before, up.counters(), measured.requests)
    return measured


def check_counters(before: dict[str, float], after: dict[str, float], requests: int) -> None:
    """The number of Opens written to streams moved by the number of requests (those cut off at the end may add)."""
    moved = {name: after[name] - before.get(name, 0) for name in after if "open" in name.lower()}
    assert any(requests <= delta <= requests + 1000 for delta in moved.values()), (
        f"{requests} requests, but the stream's counters moved by {moved}: did they go another way?"
    )


def run(seconds: float, rounds: int) -> list[Series]:
    all_series: dict[tuple[str, int], Series] = {}
    with contextlib.ExitStack() as stack:
        running: list[tuple[Contender, Up]] = []
        for contender in contenders():
            print(f"starting {contender.name} …", flush=True)
            running.append((contender, stack.enter_context(contender.run())))
        for _, up in running:
            ask(up, 8, 1.0)
        for connections in CONNECTIONS:
            for _ in range(rounds):
                for contender, up in running:
                    key = (contender.name, connections)
                    series = all_series.setdefault(key, Series(contender.name, connections))
                    series.turns.append(ask(up, connections, seconds))
    return list(all_series.values())
