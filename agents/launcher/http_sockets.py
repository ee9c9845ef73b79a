"""The node's HTTP sockets: one listening SO_REUSEPORT socket per proxy worker slot, open as long as the launcher lives.

A connection that arrives while a worker is being replaced waits in its slot's accept queue. A new launcher takes the
sockets back from living workers (pidfd_getfd); where that is forbidden it binds beside them and listens only when a
worker is there to accept, because the kernel would send connections to it from then on.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterable

from serve_rt.agents.launcher.prctl import pidfd_getfd
from serve_rt.agents.launcher.records import Handle, ProcessKind
from serve_rt.agents.listeners import describe_holder
from serve_rt.errors import ConfigError, ConflictError

log = logging.getLogger(__name__)
BACKLOG = 4096
MAX_SLOTS = 64


class HttpSockets:
    """*Resources*: `close()`."""

    def __init__(self) -> None:
        self._slots: dict[int, socket.socket] = {}
        self._address: tuple[str, int] | None = None
        self._workers: tuple[Handle, ...] = ()

    def bind(self, host: str, port: int, slots: int) -> int:
        """The port all slots listen on; asked again for the same address, the same sockets.

        *Errors*: ConflictError naming who holds the port; ConfigError for an address that is not ours.
        """
        if not 1 <= slots <= MAX_SLOTS:
            raise ConfigError(f"{slots} proxy workers: between 1 and {MAX_SLOTS} are possible")
        if self._address is None or self._address[0] != host or port not in (0, self._address[1]):
            self._bind_anew(host, port)
        assert self._address is not None
        for slot in [slot for slot in self._slots if slot >= slots]:
            self._slots.pop(slot).close()
        for slot in range(slots):
            if slot not in self._slots:
                self._slots[slot] = _bound(*self._address, shared=True)
            if not self._workers_alive():
                self._slots[slot].listen(BACKLOG)
        return self._address[1]

    def listening(self, slot: int) -> int:
        """The descriptor for the slot's next worker. *Errors*: ConfigError before `bind`."""
        if slot not in self._slots:
            raise ConfigError(f"there is no HTTP socket for worker {slot}: bind_http comes first")
        self._slots[slot].listen(BACKLOG)
        return self._slots[slot].fileno()

    def take_back(self, workers: Iterable[Handle]) -> None:
        """The sockets that living workers of a former launcher have."""
        self._workers = tuple(worker for worker in workers if worker.kind is ProcessKind.PROXY and worker.alive())
        for worker in self._workers:
            slot = worker.spec.http_slot
            host, port = worker.spec.start.get("host"), worker.spec.start.get("port")
            if slot is None or slot in self._slots:
                continue
            found = _listening_socket_of(worker, port if isinstance(port, int) else 0)
            if found is None:
                continue
            self._slots[slot] = found
            name = found.getsockname()
            self._address = (host if isinstance(host, str) else name[0], name[1])
            log.info("took back the socket of slot %d, port %s", slot, name[1], extra={"action": "socket_back"})

    def close(self) -> None:
        for bound in self._slots.values():
            bound.close()
        self._slots.clear()
        self._address = None

    def _bind_anew(self, host: str, port: int) -> None:
        """All slots of another address go; their workers keep what they have."""
        if not (port and self._workers_hold(port)):
            _probe(host, port)
        first = _bound(host, port, shared=True)
        self.close()
        self._address = (host, first.getsockname()[1])
        self._slots[0] = first

    def _workers_hold(self, port: int) -> bool:
        return any(worker.spec.start.get("port") == port for worker in self._workers if worker.alive())

    def _workers_alive(self) -> bool:
        return any(worker.alive() for worker in self._workers)


def _probe(host: str, port: int) -> None:
    """Without SO_REUSEPORT: else two nodes of one user would share a port in silence."""
    if port:
        _bound(host, port, shared=False).close()


def _bound(host: str, port: int, *, shared: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        if error.errno in (13, 99) or isinstance(error, socket.gaierror):
            raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}; see --http-host") from error
        raise ConflictError(
            f"{host}:{port} cannot be bound ({error.strerror}): {describe_holder(port)}; "
            "stop it or give another --http-port (0 takes any free port)"
        ) from error
    return bound


def _listening_socket_of(worker: Handle, port: int) -> socket.socket | None:
    pidfd = worker.process.open()
    if pidfd is None:
        return None
    try:
        for fd in _sockets_of(worker.pid):
            try:
                taken = socket.socket(fileno=pidfd_getfd(pidfd, fd))
            except PermissionError as error:
                log.warning("cannot take the socket of %s: %s", worker.name, error, extra={"action": "socket_kept"})
                return None
            except OSError:
                continue  # closed meanwhile
            if _is_tcp_listener(taken) and port in (0, taken.getsockname()[1]):
                return taken
            taken.close()
    finally:
        os.close(pidfd)
    return None


def _sockets_of(pid: int) -> list[int]:
    try:
        numbers = sorted(int(name) for name in os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return []
    found = []
    for number in numbers:
        try:
            if os.readlink(f"/proc/{pid}/fd/{number}").startswith("socket:"):
                found.append(number)
        except OSError:
            continue
    return found


def _is_tcp_listener(taken: socket.socket) -> bool:
    if taken.family not in (socket.AF_INET, socket.AF_INET6) or taken.type != socket.SOCK_STREAM:
        return False
    return bool(taken.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
