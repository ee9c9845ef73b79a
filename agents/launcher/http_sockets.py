"""The listening sockets of the node's proxy, held here so that they outlive every proxy worker.

One SO_REUSEPORT socket per worker slot. Before the first bind of a port a probe bind *without* SO_REUSEPORT asks
whether it is free: two agents would otherwise share a port in silence. A launcher that follows a dead one takes the
sockets back from the workers that inherited them.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterable

from serve_rt.agents.launcher import processes
from serve_rt.agents.launcher.records import Handle, ProcessKind
from serve_rt.errors import ConflictError

log = logging.getLogger(__name__)
BACKLOG = 2048


class HttpSockets:
    def __init__(self) -> None:
        self._host = ""
        self._port = 0
        self._slots: list[socket.socket] = []

    def bind(self, host: str, port: int, slots: int, survivors: Iterable[Handle]) -> int:
        """Sockets for `slots` workers on host:port (0: any); the port. Asked again, gives what there is.

        *Errors*: ConflictError naming the port and who holds it.
        """
        if self._slots and (host, port) in ((self._host, self._port), (self._host, 0)):
            self._extend(slots)
            return self._port
        self._release()
        self._host, self._port = host, port
        self._slots = _taken_back(port, survivors) if port else []
        if not self._slots:
            self._port = _probe(host, port)
        self._extend(slots)
        return self._port

    def fd(self, slot: int) -> int:
        if slot >= len(self._slots):
            raise ConflictError(f"no listening socket for proxy worker {slot}: {len(self._slots)} are bound")
        return self._slots[slot].fileno()

    def _extend(self, slots: int) -> None:
        while len(self._slots) < slots:
            self._slots.append(_listen(self._host, self._port))

    def _release(self) -> None:
        for sock in self._slots:
            sock.close()
        self._slots = []


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _probe(host: str, port: int) -> int:
    with socket.socket(_family(host), socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            holder = port_holder(port)
            raise ConflictError(
                f"port {port} on {host} is taken{f' by {holder}' if holder else ''} ({error.strerror}): "
                "choose another with --http-port"
            ) from error
        return int(probe.getsockname()[1])


def _listen(host: str, port: int) -> socket.socket:
    sock = socket.socket(_family(host), socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise ConflictError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    sock.setblocking(False)
    return sock


def _taken_back(port: int, survivors: Iterable[Handle]) -> list[socket.socket]:
    """The slots' sockets out of living workers, in slot order; empty when there are none or the kernel refuses."""
    by_slot: dict[int, socket.socket] = {}
    for handle in survivors:
        slot = handle.spec.http_slot
        if handle.kind is not ProcessKind.PROXY or slot is None or handle.spec.start.get("port") != port:
            continue
        if not handle.alive() or slot in by_slot:
            continue
        try:
            fd = processes.take_descriptor(handle.pid, int(handle.spec.start["socket_fd"]))
        except OSError as error:
            log.warning("socket of %s stays with it: %s", handle.name, error, extra={"action": "socket_not_taken"})
            continue
        sock = socket.socket(fileno=fd)
        if _listens_on(sock, port):
            by_slot[slot] = sock
        else:
            sock.close()
    return [by_slot[slot] for slot in sorted(by_slot)] if sorted(by_slot) == list(range(len(by_slot))) else []


def _listens_on(sock: socket.socket, port: int) -> bool:
    try:
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)) and sock.getsockname()[1] == port
    except OSError:
        return False


def port_holder(port: int) -> str:
    """`name (pid 123)` of the process that listens on a TCP port, "" when it cannot be seen."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table) as file:
                rows = [row.split() for row in file.readlines()[1:]]
        except OSError:
            continue
        inodes |= {row[9] for row in rows if row[3] == "0A" and int(row[1].rsplit(":", 1)[1], 16) == port}
    wanted = {f"socket:[{inode}]" for inode in inodes}
    return next((_describe(stat.pid) for stat in processes.all_processes() if _holds(stat.pid, wanted)), "")


def _holds(pid: int, wanted: set[str]) -> bool:
    try:
        return any(os.readlink(f"/proc/{pid}/fd/{fd}") in wanted for fd in os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return False


def _describe(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        words = ""
    return f"{words[:80] or 'a process'} (pid {pid})"
