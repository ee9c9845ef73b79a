"""Start a cluster that belongs to this process: an agent of our own, which leaves when we are gone, however we die.

Only the standard library is needed until the agent runs: `serve run` starts it first and imports the user's program
while it comes up.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from serve_rt.config.addresses import is_loopback
from serve_rt.config.paths import StateDir
from serve_rt.errors import ServeException, UnavailableError

log = logging.getLogger(__name__)
READY_TIMEOUT_S = 60.0
LEAVE_TIMEOUT_S = 40.0
_SECOND_SIGNAL_TIMEOUT_S = 10.0
_PROBE_TIMEOUT_S = 1.0


starting: OwnCluster | None = None
"""What `serve run` has started and not taken for its session yet: a program that calls `serve.run` while it is imported
finds this cluster."""


class ClusterStartError(ServeException):
    """The agent ended before it was ready; the message is the agent's own."""


@dataclass(frozen=True, slots=True)
class Ready:
    """What the agent says of itself when it is up."""

    node_id: str
    address: str
    http_address: str
    pid: int


class OwnCluster:
    """*Resources*: the creator calls `stop`; when it dies instead, the agent leaves by itself."""

    def __init__(self, process: subprocess.Popen[bytes], ready_fd: int, said: int) -> None:
        self.process = process
        self._ready_fd = ready_fd
        self._said = said
        self._open_fds: tuple[int, ...] = (ready_fd, said)
        self._ready: Ready | None = None

    @staticmethod
    def start(state: StateDir, flags: Sequence[str] = ()) -> OwnCluster:
        """Start the agent's process and return at once.

        *Errors*: ConfigError when the state dir cannot be written.
        """
        said = os.open(state.create().logs / "agent.out", os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        reader, writer = os.pipe()
        command = [sys.executable, "-m", "serve_rt.agents.main", "start", "--state-dir", str(state.path)]
        command += ["--owner-pid", str(os.getpid()), "--ready-fd", str(writer), *flags]
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                pass_fds=(writer,),
                start_new_session=True,  # Ctrl-C in the terminal is for us; we tell the agent
            )
        except BaseException:
            os.close(reader)
            os.close(said)
            raise
        finally:
            os.close(writer)
        return OwnCluster(process, reader, said)

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> Ready:
        """*Errors*: ClusterStartError with the agent's own words when it ends; UnavailableError after `timeout_s`."""
        if self._ready is None:
            self._ready = self._read_ready(timeout_s)
        return self._ready

    def _read_ready(self, timeout_s: float) -> Ready:
        deadline, line = time.monotonic() + timeout_s, b""
        while not line.endswith(b"\n"):
            readable, _, _ = select.select([self._ready_fd], [], [], max(0.0, deadline - time.monotonic()))
            if not readable:
                last_words = self._last_words()
                self.stop()
                raise UnavailableError(f"the cluster was not ready within {timeout_s:g} s. {last_words}")
            piece = os.read(self._ready_fd, 4096)
            if not piece:
                self.process.wait(5)
                raise ClusterStartError(self._last_words() or f"the agent ended with {self.process.returncode}")
            line += piece
        said = json.loads(line)
        return Ready(said["node_id"], said["address"], said["http_address"], said["pid"])

    def _last_words(self) -> str:
        size = os.fstat(self._said).st_size
        lines = os.pread(self._said, 1 << 16, max(0, size - (1 << 16))).decode(errors="replace").splitlines()
        told = [line.removeprefix("serve-agent: ") for line in lines if line.startswith("serve-agent: ")]
        return "\n".join(told[-1:] or lines[-20:])

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def stop(self) -> None:
        """Let the agent leave and wait for it; a second Ctrl-C meanwhile hurries it."""
        for signum, timeout_s in (
            (signal.SIGINT, LEAVE_TIMEOUT_S),
            (signal.SIGINT, _SECOND_SIGNAL_TIMEOUT_S),
            (signal.SIGKILL, _SECOND_SIGNAL_TIMEOUT_S),
        ):
            if not self.alive:
                break
            self.process.send_signal(signum)
            try:
                self.process.wait(timeout_s)
            except (subprocess.TimeoutExpired, KeyboardInterrupt):
                continue
        fds, self._open_fds = self._open_fds, ()
        for fd in fds:
            os.close(fd)


def open_to_others(host: str | None, *, https: bool) -> list[str]:
    """The agent's flags for HTTP at `host`, which the program or its caller named: that is the word that is needed for
    plain HTTP that other machines reach. In a cluster of our own nothing else listens to them."""
    if host is None or https or is_loopback(host):
        return []
    log.warning(
        "HTTP at %s can be reached from other machines and is not encrypted: http_options ssl_certfile and ssl_keyfile "
        "make it HTTPS, 127.0.0.1 keeps it on this one",
        host,
    )
    return ["--insecure"]


def somebody_listens(address: str) -> bool:
    """Does anything accept connections at host:port? Cheap enough to ask before deciding to start a cluster."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), _PROBE_TIMEOUT_S):
            return True
    except (OSError, ValueError):
        return False
