"""Whose is an orphan? Decided from values; what the kernel says about programs and titles is put in by hand."""

from __future__ import annotations

import os

import pytest

from serve_rt.agents.launcher import sweeping
from serve_rt.agents.launcher.child import MARKER, marker_of
from serve_rt.agents.launcher.children import ENTRY_TRANSITIONS
from serve_rt.agents.launcher.processes import ProcStat, Told
from serve_rt.agents.launcher.records import Handle, ProcessKind, SpawnSpec
from serve_rt.agents.launcher.sweeping import Sweep, left_behind
from serve_rt.model.transitions import mermaid
from tests.house.sources import ROOT

LAUNCHER = os.getpid()
KNOWN: dict[int, tuple[bytes, bytes]] = {}
NURSERY = 50


def handle(name: str, pid: int, start_ticks: int, kind: ProcessKind = ProcessKind.REPLICA) -> Handle:
    return Handle(kind, name, 1, SpawnSpec(kind, name, 1, title=f"serve-rt replica {name}"), pid, start_ticks, "boot")


def proc(pid: int, parent: int, session: int, start_ticks: int = 200, state: str = "S") -> ProcStat:
    return ProcStat(pid, state, parent, session, start_ticks)


ONE = handle("one", 100, 100)
OLDER, YOUNGER = handle("two", 90, 90), handle("three", 300, 300)
PROXY = handle("proxy-0", 80, 80, ProcessKind.PROXY)


@pytest.fixture(autouse=True)
def kernel(monkeypatch: pytest.MonkeyPatch) -> dict[int, tuple[bytes, bytes]]:
    """pid: (environment, command line)."""
    KNOWN.clear()
    monkeypatch.setattr(sweeping, "told_of", told)
    monkeypatch.setattr(sweeping, "boot_id", lambda: "boot")
    return KNOWN


def told(pid: int) -> Told | None:
    environment, command = KNOWN.get(pid, (b"", b"x"))
    return Told(environment, command) if environment or command else None


def pids(
    processes: list[ProcStat], *living: Handle, of: Handle = ONE, ours: frozenset[int] = frozenset({NURSERY})
) -> list[int]:
    return sorted(stat.pid for stat in left_behind(of, processes, living, set(ours), told=told))


def test_itself_its_session_and_all_below() -> None:
    processes = [proc(100, NURSERY, 100, 100), proc(101, 100, 100), proc(102, 101, 102), proc(103, 102, 102)]
    assert pids(processes, OLDER) == [100, 101, 102, 103]


def test_zombies_are_for_their_parents() -> None:
    assert pids([proc(100, NURSERY, 100, 100, "Z"), proc(101, LAUNCHER, 100, state="Z")]) == []


def test_a_stranger_with_its_pid_keeps_its_session() -> None:
    assert pids([proc(100, 7, 100, 500), proc(501, 100, 100, 501)]) == []


def test_what_is_older_is_not_its() -> None:
    assert pids([proc(99, LAUNCHER, 99, 99)]) == []


def test_an_orphan_with_its_mark_goes_and_one_with_anothers_stays(kernel: dict[int, tuple[bytes, bytes]]) -> None:
    def mark(owner: Handle) -> bytes:
        return f"PATH=/bin\0{MARKER}={marker_of(owner.name, 1, owner.pid, owner.start_ticks)}\0".encode()

    kernel[201], kernel[202] = (mark(ONE), b"sleep"), (mark(OLDER), b"sleep")
    processes = [proc(201, LAUNCHER, 201), proc(202, LAUNCHER, 202), proc(203, 201, 203)]
    assert pids(processes, OLDER) == [201, 203]


def test_a_fork_is_told_by_the_title_it_inherited(kernel: dict[int, tuple[bytes, bytes]]) -> None:
    kernel[201], kernel[202] = (b"", b"serve-rt replica one\0\0"), (b"", b"serve-rt replica two")
    assert pids([proc(201, LAUNCHER, 201), proc(202, LAUNCHER, 202)], OLDER) == [201]


def test_without_any_sign_age_decides() -> None:
    orphan = [proc(201, LAUNCHER, 201)]
    assert pids(orphan, YOUNGER, PROXY) == [201], "nobody else alive can be its parent"
    assert pids(orphan, OLDER) == [], "it may be a neighbour's"


def test_fork_parents_and_living_children_are_never_taken() -> None:
    processes = [proc(NURSERY, LAUNCHER, 1, 200), proc(300, LAUNCHER, 300, 300)]
    assert pids(processes, YOUNGER) == []


def test_an_adopted_ones_orphans_may_be_anywhere(kernel: dict[int, tuple[bytes, bytes]]) -> None:
    kernel[201] = (b"", b"serve-rt replica one")
    processes = [proc(201, 1, 201), proc(202, 1, 202)]
    assert [stat.pid for stat in left_behind(ONE, processes, [], set(), ours_by_birth=False, told=told)] == [201]
    assert left_behind(ONE, processes, [], set(), told=told) == []


def test_a_sweep_waits_for_an_orphan_in_the_middle_of_an_exec(
    kernel: dict[int, tuple[bytes, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no command line and no environment yet: once it was taken for nobody's, and lived on."""
    monkeypatch.setattr(sweeping, "all_processes", lambda: [proc(2**22 + 1, LAUNCHER, 201)])
    pid, cleaned = 2**22 + 1, []
    kernel[pid] = (b"", b"")
    sweep = Sweep(
        ONE,
        is_over=lambda: True,
        living=lambda: [OLDER],
        ours=set,
        ours_by_birth=True,
        on_clean=lambda: cleaned.append(1),
    )
    assert not sweep.done() and not cleaned
    kernel[pid] = (f"{MARKER}={marker_of('one', 1, 100, 100)}".encode(), b"sleep")
    assert not sweep.done() and [stat.pid for stat in sweep.left] == [pid]
    kernel[pid] = (b"A=b", b"somebody else's")
    assert sweep.done() and cleaned == [1]


def test_another_nodes_proxy_of_the_same_title_is_left_alone(kernel: dict[int, tuple[bytes, bytes]]) -> None:
    """Two nodes on one machine: a proxy that a new launcher had adopted died, and its sweep killed the other node's."""
    spec = SpawnSpec(ProcessKind.PROXY, "proxy-0", 1, title="serve-rt proxy 0")
    dead = Handle(ProcessKind.PROXY, "proxy-0", 1, spec, 100, 100, "boot")
    kernel[201] = (b"", b"serve-rt proxy 0")
    assert left_behind(dead, [proc(201, 77, 201)], [], set(), ours_by_birth=False, told=told) == []


def test_the_picture_of_an_entrys_life_is_the_table() -> None:
    assert mermaid(ENTRY_TRANSITIONS) in (ROOT / "agents/launcher/README.md").read_text()
