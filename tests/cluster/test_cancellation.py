"""A client that leaves, a deadline that passes, a handle's `.cancel()`: every shape of user code hears of it."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster.harness import LocalCluster
from tests.cluster.in_flight import levels, settled
from tests.cluster.processes import eventually

CUTS = ("leave", "deadline", "cancel")
AFTER_S = 0.3
"""The cut comes this long after the request: by then the work has begun."""
HEARD_WITHIN_S = 2.0
"""The promise is 0.1; a shared machine may hold one up."""


@dataclass
class Bench:
    """A cluster with the applications of cancel_apps.py, and what they noted."""

    cluster: LocalCluster
    ledger: Path
    number: int = 0

    def key(self) -> str:
        self.number += 1
        return f"k{self.number}"

    def notes(self, key: str) -> dict[str, float]:
        lines = [line.split() for line in self.ledger.read_text().splitlines()]
        return {word: float(at) for name, word, at in lines if name == key}

    def noted(self, key: str, word: str) -> float:
        return eventually(lambda: self.notes(key).get(word), HEARD_WITHIN_S + AFTER_S, f"{word!r} of {key}")

    def send(self, do: str, key: str, cut: str) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.cluster.node.http_port), timeout=20)
        path = f"/?do={do}&key={key}" + (f"&cut=cancel&after_s={AFTER_S}" if cut == "cancel" else "")
        deadline = f"x-request-timeout-seconds: {AFTER_S}\r\n" if cut == "deadline" else ""
        connection.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{deadline}\r\n".encode())
        return connection

    def cut(self, connection: socket.socket, key: str, cut: str, sent_s: float) -> float:
        """When the request was cut; its answer, if there is one, has been read."""
        if cut == "leave":
            connection.close()
            return time.monotonic()
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        connection.close()
        status = answer[:12]
        if cut == "deadline":
            assert status in (b"HTTP/1.1 408", b"HTTP/1.1 200"), answer  # 200: a stream, and then it was cut
            return sent_s + AFTER_S
        assert status == b"HTTP/1.1 409" or b"cancelled" in answer, answer
        return self.noted(key, "cut")

    def request(self, do: str, cut: str) -> tuple[str, float]:
        """One that begins and is cut: its key, and when it was cut."""
        key, sent_s = self.key(), time.monotonic()
        connection = self.send(do, key, cut)
        try:
            self.noted(key, "begun")
            return key, self.cut(connection, key, cut, sent_s)
        finally:
            connection.close()


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    cluster = LocalCluster()
    try:
        cluster.start_node()
        ledger = cluster.folder / "ledger"
        cluster.deploy("cancels", arguments={"ledger": str(ledger)})
        yield Bench(cluster, ledger)
    finally:
        cluster.close()


SHAPES = [(do, cut) for do in ("own", "child", "unattended", "thread", "stream") for cut in CUTS]


@pytest.mark.parametrize(("do", "cut"), [(do, cut) for do, cut in SHAPES if (do, cut) != ("own", "cancel")])
def test_user_code_hears_of_it(bench: Bench, do: str, cut: str) -> None:
    """CancelledError in an async handler, at the end of a chain also through a thread; a generator's `finally`."""
    key, cut_s = bench.request(do, cut)
    heard_s = bench.noted(key, "cancelled") - cut_s
    print(f"[{do}, {cut}] heard after {heard_s * 1e3:.0f} ms")
    assert -0.05 < heard_s < HEARD_WITHIN_S
    settled(bench.cluster, 5.0)


@pytest.mark.parametrize("cut", CUTS)
def test_sync_handler_can_look_and_keeps_its_slot_until_it_ends(bench: Bench, cut: str) -> None:
    key, cut_s = bench.request("sync", cut)
    print(f"[sync, {cut}] saw it after {(bench.noted(key, 'cancelled') - cut_s) * 1e3:.0f} ms")
    held = {level.who.split("#")[1]: level for level in levels(bench.cluster) if level.busy and "#" in level.who}
    assert "left" in bench.notes(key) or dict(held["Work"].counts)["slots_taken"] == 1, held
    settled(bench.cluster, 5.0)
    assert "left" in bench.notes(key), "the slot was free before the handler had ended"


@pytest.mark.parametrize("cut", CUTS)
def test_queued_request_never_starts(bench: Bench, cut: str) -> None:
    """The only slot is taken; those that wait for it are cut; when it is free nobody takes it."""
    first, waiting = bench.key(), [bench.key() for _ in range(5)]
    holder = bench.send("queued", first, "none")
    bench.noted(first, "begun")
    sent_s = time.monotonic()
    connections = [bench.send("queued", key, cut) for key in waiting]
    eventually(lambda: _queued_at_front(bench) == len(waiting), 5, "they wait")
    for key, connection in zip(waiting, connections, strict=True):
        bench.cut(connection, key, cut, sent_s)
    eventually(lambda: _queued_at_front(bench) == 0, HEARD_WITHIN_S, "they have left the queue")
    holder.close()
    settled(bench.cluster, 5.0)
    assert not [key for key in waiting if "begun" in bench.notes(key)]


def _queued_at_front(bench: Bench) -> int:
    counts = [dict(level.counts) for level in levels(bench.cluster) if "#Front#" in level.who]
    return sum(count["calls_queued"] for count in counts)


@pytest.mark.parametrize("cut", CUTS)
def test_queued_item_leaves_its_batch(bench: Bench, cut: str) -> None:
    """The batch waits for more; the one that is cut is not in it when it runs, the other is."""
    stays = bench.key()
    staying = bench.send("batch", stays, "none")
    cut_key, _ = bench.request("batch", cut)
    bench.noted(cut_key, "cancelled")
    bench.noted(stays, "ran")
    staying.close()
    settled(bench.cluster, 5.0)
    assert "ran" not in bench.notes(cut_key)
