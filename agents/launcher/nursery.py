"""A fork parent: a process that imports, forks and reaps, and knows nothing else.

Started by `nurseries` in the launcher, in two sorts. The first (generation 0) imports the runtime in steps, between
requests, and forks proxies, controllers and replicas. A learning one is forked from the first, imports what
constructors imported and then forks replicas. It dies with the launcher (PR_SET_PDEATHSIG), so that no fork happens
behind a new launcher's back; its children go on.
"""

from __future__ import annotations

import gc
import logging
import os
import select
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from serve_rt.agents.launcher import packets
from serve_rt.agents.launcher.forking import fork_child
from serve_rt.agents.launcher.handle_files import HandleFiles
from serve_rt.agents.launcher.prctl import die_with_parent
from serve_rt.agents.launcher.preload import NEEDED_BY, RUNTIME, import_one, spoilt
from serve_rt.agents.launcher.priority import lowered_priority
from serve_rt.agents.launcher.records import Handle
from serve_rt.agents.launcher.thread_limits import hold_to_one
from serve_rt.errors import ServeException

log = logging.getLogger(__name__)


class Nursery:
    def __init__(self, link: socket.socket, handles: Path, kept_fds: tuple[int, ...], generation: int = 0) -> None:
        self._link = link
        self._files = HandleFiles(handles)
        self._kept_fds = kept_fds
        self._generation = generation
        self._steps: Sequence[str] = RUNTIME
        self._done = 0
        self._child_ended, self._wake = -1, -1

    def run(self) -> NoReturn:
        """Until the launcher is gone."""
        try:
            self._listen_for_ends()
            hold_to_one()
            gc.disable()
            self._serve()
        except (BrokenPipeError, ConnectionResetError):
            pass
        except BaseException:  # the edge of the process
            log.exception("fork parent failed", extra={"action": "nursery_failed", "generation": self._generation})
        finally:
            os._exit(0)

    def learn(self, pieces: int) -> NoReturn:
        """As `run`, after importing what comes in `pieces` packets; ends when a module spoils the process."""
        try:
            self._listen_for_ends()
            self._tell({"event": "born", "pid": os.getpid()})
            self._done = len(self._steps)  # forked from one that has them all
            modules = self._receive_modules(pieces)
            self._import_learned(modules)
            gc.collect()
            self._tell({"event": "ready", "modules": len(modules)})
            self._serve()
        except (BrokenPipeError, ConnectionResetError):
            pass
        except BaseException:  # the edge of the process
            log.exception("fork parent failed", extra={"action": "nursery_failed", "generation": self._generation})
        finally:
            os._exit(0)

    # --- requests -------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        poll = select.poll()  # no descriptor of its own, which children would have to know
        poll.register(self._link, select.POLLIN)
        poll.register(self._child_ended, select.POLLIN)
        while True:
            idle = self._done >= len(self._steps)
            ready = {fd for fd, _ in poll.poll(None if idle else 0)}
            if self._child_ended in ready:
                os.read(self._child_ended, 4096)
                self._reap()
            if self._link.fileno() in ready:
                received = packets.receive(self._link)
                if received is None:
                    return
                self._do(*received)
            elif not ready and not idle:
                self._import_next()

    def _do(self, packet: packets.Packet, fds: list[int]) -> None:
        try:
            if packet["op"] == "fork":
                self._fork(packet, fds)
            elif packet["op"] == "nurse":
                self._nurse(packet, fds)
        finally:
            for fd in fds:
                os.close(fd)

    def _fork(self, packet: packets.Packet, fds: list[int]) -> None:
        name, incarnation = packet["name"], packet["incarnation"]
        key = {"name": name, "incarnation": incarnation}
        handle = self._files.read(name, incarnation)
        if handle is None or handle.pid:
            self._tell({"event": "failed", **key, "message": f"the handle file of {name} is not a reservation"})
            return
        self._import_for(handle)
        try:
            started = fork_child(handle, self._files, fds[0] if fds else None)
        except ServeException as error:
            self._tell({"event": "failed", **key, "message": str(error)})
            return
        self._tell({"event": "forked", **key, "pid": started.pid})

    def _nurse(self, packet: packets.Packet, fds: list[int]) -> None:
        """Become two: the other one learns."""
        while self._done < len(self._steps):
            self._import_next()
        parent = os.getpid()
        gc.freeze()
        if os.fork() == 0:
            link = socket.socket(fileno=os.dup(fds[0]))
            settle(parent, (link.fileno(), *self._kept_fds), f"learning {packet['generation']}")
            nursery = Nursery(link, Path(packet["handles"]), self._kept_fds, packet["generation"])
            nursery.learn(packet["pieces"])

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._tell({"event": "exited", "pid": pid, "status": status})

    def _tell(self, packet: packets.Packet) -> None:
        packets.send(self._link, packet)

    # --- imports --------------------------------------------------------------------------------------------------

    def _import_for(self, handle: Handle) -> None:
        while self._done < NEEDED_BY.get(handle.kind, 0):
            self._import_next()

    def _import_next(self) -> None:
        name = self._steps[self._done]
        self._done += 1
        why = import_one(name)
        if why:
            log.error("cannot preload %s: %s", name, why, extra={"action": "preload_failed"})
        if self._done == len(self._steps):
            why = spoilt()
            if why:
                log.error("the runtime's own modules spoil fork parents: %s", why, extra={"action": "nursery_spoilt"})

    def _receive_modules(self, pieces: int) -> list[str]:
        modules: list[str] = []
        for _ in range(pieces):
            received = packets.receive(self._link)
            if received is None:
                raise BrokenPipeError
            modules += received[0]["modules"]
        return modules

    def _import_learned(self, modules: Sequence[str]) -> None:
        with lowered_priority():
            for name in modules:
                self._tell({"event": "importing", "module": name})
                why = import_one(name)
                if why:
                    self._tell({"event": "skipped", "module": name, "why": why})
                why = spoilt()
                if why:
                    self._tell({"event": "spoilt", "module": name, "why": why})
                    os._exit(0)

    # --- signals --------------------------------------------------------------------------------------------------

    def _listen_for_ends(self) -> None:
        self._child_ended, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _signum, _frame: None)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])


def settle(parent: int, kept_fds: Sequence[int], what: str) -> None:
    """The first steps of a nursery's process, right after its fork: nothing of the launcher stays but what is named."""
    signal.set_wakeup_fd(-1)
    for signum in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(signum, signal.SIG_DFL)
    for signum in (signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    close_all_but(kept_fds)
    die_with_parent(signal.SIGKILL, parent)
    from setproctitle import setproctitle

    setproctitle(f"serve-rt launcher: {what}")


def close_all_but(kept_fds: Sequence[int]) -> None:
    first = 3
    for fd in sorted(kept_fds):
        os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, max(os.sysconf("SC_OPEN_MAX"), 65536))
