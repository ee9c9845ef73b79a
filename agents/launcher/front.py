"""The launcher: joins its parts, answers whoever connects, reaps. One per state dir, held by a lock.

    client ──lines──▶ requests ──▶ children ──▶ nurseries ──packets──▶ fork parents ──fork──▶ processes
                                      ▲  └─────────── handle files        │
                                      └──────────── forked, exited ◀──────┘

It imports nothing but the standard library, msgspec and setproctitle: it must be listening at once, stay small, and be
safe to fork. The runtime is imported by its fork parents.
"""

from __future__ import annotations

import fcntl
import logging
import os
import selectors
import signal
import socket
import time

import msgspec

from serve_rt.agents.launcher.children import Children
from serve_rt.agents.launcher.connection import Connection
from serve_rt.agents.launcher.ending import Ending
from serve_rt.agents.launcher.handle_files import HandleFiles
from serve_rt.agents.launcher.http_sockets import HttpSockets
from serve_rt.agents.launcher.learned import Learned
from serve_rt.agents.launcher.nurseries import Nurseries
from serve_rt.agents.launcher.prctl import become_subreaper
from serve_rt.agents.launcher.reactor import Reactor
from serve_rt.agents.launcher.records import Exit, LauncherStatus
from serve_rt.agents.launcher.requests import Reply, Requests
from serve_rt.config.paths import StateDir

log = logging.getLogger(__name__)
MAX_CLIENTS = 64
LOCK_S = 5.0
_LAST_WORDS_S = 0.5
_FORK_PARENTS_S = 0.05


class AnotherLauncher(Exception):
    """One answers already: ours is not needed."""


class Front:
    """*Resources*: the whole process is its; `run()` returns when it shall end."""

    def __init__(self, state: StateDir) -> None:
        """Listening on return. *Errors*: AnotherLauncher."""
        self._state = state
        self._lock = _take_lock(state)
        become_subreaper()
        self._reactor = reactor = Reactor()
        self._listener = _listen(state)
        reactor.watch(self._listener, selectors.EVENT_READ, self._accept)
        reactor.on_signal(signal.SIGCHLD, self._reap)
        for signum in (signal.SIGTERM, signal.SIGINT):
            reactor.on_signal(signum, self._step_down)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

        self._clients: list[Connection] = []
        files = self._files = HandleFiles(state.handles)
        self._sockets = HttpSockets()
        self._learned = Learned(state.learned)
        self._children = children = Children(reactor, files, self._sockets, self._exited)
        nurseries = self._nurseries = Nurseries(
            reactor, self._learned, state.handles, (self._lock,), children.packet, children.parent_lost
        )
        children.nurseries = nurseries
        self._requests = Requests(reactor, children, nurseries, self._sockets, self._status, self._shutdown)
        self._ending: Ending | None = None
        self._last_replies: list[Reply] = []

    def run(self) -> None:
        """Fork parents first: they import while we read what was here before."""
        self._nurseries.start()
        self._children.adopt()
        self._sockets.take_back(self._children.handles())
        self._reactor.run()

    # --- clients --------------------------------------------------------------------------------------------------

    def _accept(self, _events: int) -> None:
        try:
            sock, _address = self._listener.accept()
        except OSError:
            return  # it left again, or we are out of descriptors
        if len(self._clients) >= MAX_CLIENTS:
            sock.close()
            return
        client = Connection(self._reactor, sock, self._requests.line, self._clients.remove)
        self._clients.append(client)
        for handle in self._children.handles():
            if handle.exited is not None:
                client.send({"exit": msgspec.to_builtins(handle.exited)})

    def _exited(self, exit_: Exit) -> None:
        """To every client: a tool that connects for a moment must not take the news from the agent."""
        for client in list(self._clients):
            client.send({"exit": msgspec.to_builtins(exit_)})

    def _status(self) -> LauncherStatus:
        return LauncherStatus(
            pid=os.getpid(),
            state="learning" if self._nurseries.learning else "warm",
            running=len(self._children.running()),
            learned=self._nurseries.learned_count,
            bad=self._learned.bad,
            generation=self._nurseries.generation,
            nursery_pids=self._nurseries.pids,
        )

    # --- ends -----------------------------------------------------------------------------------------------------

    def _reap(self) -> None:
        self._nurseries.drain()  # what they told before they ended comes first
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._children.reaped(pid, status)

    def _step_down(self) -> None:
        """SIGTERM, SIGINT: the children go on; the agent starts another launcher."""
        log.info("asked to end: the children go on", extra={"action": "launcher_steps_down"})
        self._state.launcher_socket.unlink(missing_ok=True)
        self._reactor.stop()

    def _shutdown(self, reply: Reply) -> None:
        self._last_replies.append(reply)
        self._children.closing = True
        if self._ending is None:
            self._ending = Ending(self._reactor, self._children, self._ended)

    def _ended(self) -> None:
        """Nothing runs any more: the fork parents, then our own traces, then the answer, then us."""
        pids = self._nurseries.pids
        try:
            self._nurseries.close()
            _end_children(pids)
            self._sockets.close()
            self._reactor.forget(self._listener)
            self._listener.close()
            self._state.launcher_socket.unlink(missing_ok=True)
            self._files.clear()
            for reply in self._last_replies:
                reply(None)
            for client in list(self._clients):
                client.flush_before_end(_LAST_WORDS_S)
        finally:  # whatever fails here: a launcher without a listener must not stay
            self._reactor.stop()


def _take_lock(state: StateDir) -> int:
    """Held until we and all our fork parents are gone (they inherit it): only then may another launcher fork.

    *Errors*: AnotherLauncher when one answers, or does not end in LOCK_S.
    """
    fd = os.open(state.path / "launcher.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    until = time.monotonic() + LOCK_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError as error:
            if time.monotonic() > until or _answers(state):
                os.close(fd)
                raise AnotherLauncher(f"another launcher has the state dir {state.path}") from error
        time.sleep(0.005)  # nothing tells of a lock that is given back


def _answers(state: StateDir) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(state.launcher_socket))
        except OSError:
            return False
    return True


def _listen(state: StateDir) -> socket.socket:
    state.launcher_socket.unlink(missing_ok=True)  # a dead one's: we have the lock
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(state.launcher_socket))
    finally:
        os.umask(before)
    listener.listen(MAX_CLIENTS)
    listener.setblocking(False)
    return listener


def _end_children(pids: tuple[int, ...]) -> None:
    """Fork parents end when their link closes; one in the middle of an import is killed."""
    until = time.monotonic() + _FORK_PARENTS_S
    killed = False
    while any(os.path.exists(f"/proc/{pid}") for pid in pids):
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if time.monotonic() > until and not killed:
            killed = True
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        time.sleep(0.002)
