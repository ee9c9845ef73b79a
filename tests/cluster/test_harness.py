"""The harness can fail: faults that do not bite, processes left behind and wrong counts are told."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.http_bench import check_counters
from tests.cluster.etcd_server import EtcdServer
from tests.cluster.faults import EtcdAway, Freeze, Kill, applied, inject
from tests.cluster.processes import ProcessId, eventually, handle_files, listener_pid, processes_of, pss_bytes

Spawn = Callable[..., ProcessId]
SLEEP = "print('up', flush=True); import time; time.sleep(60)"


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    children: list[subprocess.Popen[str]] = []

    def start(code: str = SLEEP, **kwargs: str) -> ProcessId:
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, **kwargs)  # type: ignore[call-overload]  # only cwd is passed
        children.append(child)
        assert child.stdout is not None
        assert child.stdout.readline() == "up\n"
        return ProcessId.of(child.pid)

    yield start
    for child in children:
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


def test_kill_proves_that_it_bit(spawn: Spawn) -> None:
    inject(Kill(spawn()))
    deaf = spawn("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SLEEP)
    with pytest.raises(AssertionError, match="not within"):
        inject(Kill(deaf, signal.SIGTERM, within_s=0.3))


def test_killing_the_dead_is_an_error(spawn: Spawn) -> None:
    victim = spawn()
    inject(Kill(victim))
    with pytest.raises(AssertionError, match="gone already"):
        inject(Kill(victim))


def test_freeze_and_heal(spawn: Spawn) -> None:
    victim = spawn()
    with applied(Freeze(victim)):
        assert victim.stopped() and victim.alive()
    eventually(lambda: not victim.stopped(), 2, "it goes on")


def test_etcd_goes_and_comes_back_with_its_data() -> None:
    etcd = EtcdServer().start()
    try:
        assert etcd._ctl("put", "/a", "1").returncode == 0
        with applied(EtcdAway(etcd)):
            assert etcd.get("/a") == {}
        assert etcd.get("/a") == {"/a": "1"}
    finally:
        etcd.close()


def test_what_touches_a_folder_is_found(spawn: Spawn, tmp_path: Path) -> None:
    by_cwd = spawn(cwd=str(tmp_path))
    by_file = spawn(f"f = open({str(tmp_path / 'x')!r}, 'w')\n" + SLEEP)
    stranger = spawn()
    found = {process for process, _ in processes_of(tmp_path)}
    assert found == {by_cwd, by_file} and stranger not in found
    assert pss_bytes([by_cwd]) > 1 << 20


def test_a_reused_pid_is_not_the_process(spawn: Spawn, tmp_path: Path) -> None:
    real = spawn()
    impostor = ProcessId(real.pid, real.start_ticks + 1)
    assert real.alive() and not impostor.alive()
    (tmp_path / "handles").mkdir()
    record = '{"kind": "REPLICA", "name": "a#b#c", "incarnation": 2, "pid": %d, "start_ticks": %d}'
    (tmp_path / "handles" / "1.json").write_text(record % (real.pid, real.start_ticks))
    (tmp_path / "handles" / "2.json").write_text(record % (real.pid, real.start_ticks + 1))
    (tmp_path / "handles" / "3.json").write_text("")
    [handle] = handle_files(tmp_path)
    assert (handle.kind, handle.incarnation, handle.process) == ("replica", 2, real)


def test_the_listener_of_a_unix_socket_is_known(tmp_path: Path) -> None:
    import os

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        assert listener_pid(tmp_path / "s") == os.getpid()


def test_eventually_says_what_did_not_happen() -> None:
    with pytest.raises(AssertionError, match=r"not within 0\.1 s: pigs fly"):
        eventually(lambda: None, 0.1, "pigs fly")


def test_holding_the_gil_holds_it() -> None:
    """The application's fault bites: another thread stands still, and CPU is burnt."""
    code = Path(__file__).with_name("apps.py").read_text()
    start = code.index("def hold_gil")
    function = code[start : code.index("@serve.deployment", start)]
    script = (
        "import itertools, threading, time\nfrom collections import deque\n" + function + "ticks = []\n"
        "def tick():\n"
        "    while True:\n        ticks.append(time.monotonic()); time.sleep(0.01)\n"
        "threading.Thread(target=tick, daemon=True).start()\ntime.sleep(0.1)\nhold_gil(1.0)\ntime.sleep(0.1)\n"
        "print(max(b - a for a, b in zip(ticks, ticks[1:])))\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(ended.stdout) > 0.4


def test_counters_that_did_not_move_fail_the_bench() -> None:
    check_counters({"stream.opens": 5}, {"stream.opens": 105}, 100)
    with pytest.raises(AssertionError, match="another way"):
        check_counters({"stream.opens": 5}, {"stream.opens": 5}, 100)
