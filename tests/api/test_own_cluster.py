"""Starting an agent of our own, with a stand-in for it: what it says, how it ends."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from serve_rt.api import own_cluster
from serve_rt.api.own_cluster import ClusterStartError, OwnCluster, somebody_listens
from serve_rt.config.paths import StateDir
from serve_rt.errors import ConfigError, UnavailableError

AGENT = """
import json, os, signal, sys, time
arguments = sys.argv[1:]
if "--fail" in arguments:
    print("some log line", file=sys.stderr)
    print("serve-agent: port 8000 is taken by nginx (pid 7)", file=sys.stderr)
    sys.exit(1)
if "--stubborn" in arguments:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
fd = int(arguments[arguments.index("--ready-fd") + 1])
if "--silent" not in arguments:
    ready = {"node_id": "n", "address": "a:1", "http_address": "h:2", "pid": os.getpid()}
    os.write(fd, json.dumps(ready).encode() + b"\\n")
    os.close(fd)
signal.pause()
"""


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StateDir:
    """`python -m serve_rt.agents.main` is AGENT here."""
    script = tmp_path / "agent.py"
    script.write_text(AGENT)
    real = subprocess.Popen

    def popen(command: list[str], **options: object) -> object:
        return real([sys.executable, str(script), *command[3:]], **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "Popen", popen)
    return StateDir(tmp_path / "s")


def test_ready_and_stopped(state: StateDir) -> None:
    own = OwnCluster.start(state)
    ready = own.wait_ready()
    assert (ready.node_id, ready.address, ready.http_address, ready.pid) == ("n", "a:1", "h:2", own.process.pid)
    own.stop()
    own.stop()
    assert own.process.returncode == -signal.SIGINT


def test_an_agent_that_ends_speaks_for_itself(state: StateDir) -> None:
    own = OwnCluster.start(state, ["--fail"])
    with pytest.raises(ClusterStartError) as raised:
        own.wait_ready()
    assert str(raised.value) == "port 8000 is taken by nginx (pid 7)"
    own.stop()


def test_an_agent_that_says_nothing_is_stopped(state: StateDir) -> None:
    own = OwnCluster.start(state, ["--silent"])
    with pytest.raises(UnavailableError, match=r"not ready within 0\.2 s"):
        own.wait_ready(0.2)
    assert not own.alive


def test_an_agent_that_does_not_leave_is_killed(state: StateDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_cluster, "LEAVE_TIMEOUT_S", 0.1)
    monkeypatch.setattr(own_cluster, "_SECOND_SIGNAL_TIMEOUT_S", 0.3)
    own = OwnCluster.start(state, ["--stubborn"])
    own.wait_ready()
    own.stop()
    assert own.process.returncode == -signal.SIGKILL


def test_a_state_dir_that_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="not writable"):
        OwnCluster.start(StateDir(tmp_path / "file"))


def test_somebody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert somebody_listens(address)
    assert not somebody_listens(address)
    assert not somebody_listens("nonsense")
