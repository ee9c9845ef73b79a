"""A real etcd as a process a test may hurt: killed, frozen, wiped, always by its own pid."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from serve_rt.etcd.embedded import EmbeddedEtcd, embedded_command, embedded_environment, find_etcd, wait_ready

READY_S = 20.0


class EtcdServer:
    """One embedded etcd in a directory of its own; `extra` are further flags."""

    def __init__(self, *, listen_tcp: str = "", extra: tuple[str, ...] = ()) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="srt-", dir="/tmp"))  # short: it holds a Unix socket
        self._listen_tcp = listen_tcp
        self._extra = extra
        self._process: subprocess.Popen[bytes] | None = None
        self.endpoint = self._command().endpoint

    def _command(self) -> EmbeddedEtcd:
        return embedded_command(find_etcd(), self.dir, listen_tcp=self._listen_tcp, fsync=False)

    def spawn(self) -> None:
        command = self._command()
        with (self.dir / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command.argv, *self._extra], cwd=command.cwd, env=embedded_environment(os.environ), stderr=log
            )

    async def start(self) -> None:
        self.spawn()
        await wait_ready(self.endpoint, READY_S)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "not started"
        return self._process

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        """Returns when the kernel has really stopped it."""
        self.process.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + 5
        while self._state() != "T":
            assert time.monotonic() < deadline, "SIGSTOP did not stop etcd"
            time.sleep(0.001)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def _state(self) -> str:
        stat = Path(f"/proc/{self.process.pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0]

    def wipe(self) -> None:
        """Its data is gone; only while it does not run."""
        assert self.process.poll() is not None
        shutil.rmtree(self.dir / "data")

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.thaw()
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self.dir, ignore_errors=True)
