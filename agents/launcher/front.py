"""The launcher's one loop: commands in, forks out, ends of processes told. Synchronous, single-threaded, selectors.

It owns the handle files, the HTTP sockets and the nurseries. It never uses gRPC (importing it is fine): a process that
forks must have no threads. Ends arrive as SIGCHLD for children, from a nursery for a nursery's children, and by pidfd
for processes that a former launcher forked. Whatever a dead child leaves behind in its session is killed before its
end is told.

Started by `main`, commanded through `client`.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import replace

import msgspec

from serve_rt.agents.launcher import processes, protocol
from serve_rt.agents.launcher.child import fork_child
from serve_rt.agents.launcher.handle_files import HandleFiles
from serve_rt.agents.launcher.http_sockets import HttpSockets
from serve_rt.agents.launcher.nurseries import Link, Nurseries
from serve_rt.agents.launcher.preload import Preloader
from serve_rt.agents.launcher.protocol import LineBuffer, Reply, Request
from serve_rt.agents.launcher.records import Exit, Handle, LauncherState, LauncherStatus, ProcessKind, SpawnSpec
from serve_rt.config.paths import StateDir
from serve_rt.config.protections import Protection, enabled
from serve_rt.errors import ConfigError, ConflictError, NotFoundError, ServeException

log = logging.getLogger(__name__)
SHUTDOWN_TERM_S = 2.0


class Connection:
    """Somebody who commands us."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.buffer = LineBuffer()


class Front:
    def __init__(self, state: StateDir, listener: socket.socket) -> None:
        self._state = state
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._woken, self._wakes = socket.socketpair()
        self._connections: set[Connection] = set()
        self._files = HandleFiles(state.handles)
        self._handles: dict[tuple[str, int], Handle] = {}
        self._pidfds: dict[int, Handle] = {}
        self._sockets = HttpSockets()
        self._preloader = Preloader()
        self._nurseries = Nurseries(state.learned, self._selector, self._reaped, self._shed)
        self._stopping = False

    def run(self) -> None:
        """Until shut down."""
        self._prepare()
        self._find_survivors()
        while not self._stopping:
            busy = not self._preloader.done
            for key, _ in self._selector.select(timeout=0.0 if busy else 5.0):
                self._handle_event(key.fileobj, key.data)
            self._reap()
            for link in self._nurseries.pending():
                self._nurseries.deliver(link)
            if not self._preloader.done:
                self._preloader.step()
                self._preloaded()

    def _prepare(self) -> None:
        processes.become_subreaper()
        for end in (self._woken, self._wakes):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.set_wakeup_fd(self._wakes.fileno(), warn_on_full_buffer=False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._selector.register(self._listener, selectors.EVENT_READ)

    def _preloaded(self) -> None:
        if self._preloader.done:
            gc.collect()
            gc.freeze()
            if enabled(Protection.LEARN):
                self._nurseries.begin()

    # --- events -----------------------------------------------------------------------------------------------------

    def _handle_event(self, source: object, data: object) -> None:
        if source is self._listener:
            self._accept()
        elif source is self._woken:
            with contextlib.suppress(BlockingIOError):
                self._woken.recv(4096)
        elif isinstance(data, Connection):
            self._read(data)
        elif isinstance(data, Link):
            self._nurseries.readable(data)
        elif isinstance(source, int):
            self._survivor_ended(source)

    def _accept(self) -> None:
        sock, _ = self._listener.accept()
        sock.settimeout(5.0)  # a reader that stops reading must not stop the node
        connection = Connection(sock)
        self._connections.add(connection)
        self._selector.register(sock, selectors.EVENT_READ, connection)

    def _read(self, connection: Connection) -> None:
        try:
            data = connection.sock.recv(1 << 16)
            for text in connection.buffer.feed(data):
                self._answer(connection, text)
        except (OSError, ConfigError) as error:
            log.warning("connection closed: %s", error, extra={"action": "connection_closed"})
            data = b""
        if not data:
            self._close(connection)

    def _close(self, connection: Connection) -> None:
        if connection in self._connections:
            self._connections.discard(connection)
            self._selector.unregister(connection.sock)
            connection.sock.close()

    def _answer(self, connection: Connection, text: bytes) -> None:
        request_id = 0
        try:
            request = protocol.request_decoder.decode(text)
            request_id = request.id
            reply = self._obey(request)
        except msgspec.MsgspecError as error:
            reply = Reply(request_id, error="ConfigError", message=f"not a launcher command: {error}")
        except ServeException as error:
            reply = Reply(request_id, error=type(error).__name__, message=str(error))
        except OSError as error:
            log.exception("command failed", extra={"action": "command_failed"})
            reply = Reply(request_id, error="ServeException", message=f"the launcher failed: {error}")
        self._send(connection, reply)

    def _send(self, connection: Connection, reply: Reply) -> None:
        try:
            connection.sock.sendall(protocol.line(reply))
        except OSError:
            self._close(connection)

    def _obey(self, request: Request) -> Reply:
        match request.command:
            case protocol.Spawn(spec):
                return Reply(request.id, handle=self._spawn(spec))
            case protocol.ListHandles():
                return Reply(request.id, handles=tuple(self._handles.values()))
            case protocol.Signal(name, incarnation, signum):
                return Reply(request.id, number=int(self._signal(name, incarnation, signum)))
            case protocol.KillGroup(name, incarnation):
                self._kill_group(name, incarnation)
                return Reply(request.id)
            case protocol.Forget(name, incarnation):
                self._forget(name, incarnation)
                return Reply(request.id)
            case protocol.BindHttp(host, port, slots):
                return Reply(request.id, number=self._sockets.bind(host, port, slots, self._handles.values()))
            case protocol.Preload(modules):
                if enabled(Protection.LEARN):
                    self._nurseries.learn(modules)
                return Reply(request.id)
            case protocol.Status():
                return Reply(request.id, status=self._status())
            case protocol.Shutdown():
                self._shutdown()
                return Reply(request.id)

    def _status(self) -> LauncherStatus:
        state = LauncherState.LEARNING if self._nurseries.learning else LauncherState.WARM
        return LauncherStatus(os.getpid(), state.value, self._nurseries.preloaded, self._nurseries.learned.bad)

    # --- starting ---------------------------------------------------------------------------------------------------

    def _spawn(self, spec: SpawnSpec) -> Handle:
        """Start a process; asked twice for one incarnation, the first outcome."""
        known = self._handles.get((spec.name, spec.incarnation))
        if known is not None:
            return known
        highest = max((i for name, i in self._handles if name == spec.name), default=-1)
        if spec.incarnation <= highest:
            raise ConflictError(f"{spec.name}.{spec.incarnation} is older than {highest}, which was started already")
        keep: tuple[int, ...] = ()
        if spec.http_slot is not None:
            keep = (self._sockets.fd(spec.http_slot),)
            spec = replace(spec, start={**spec.start, "socket_fd": keep[0]})
        handle = Handle(spec.kind, spec.name, spec.incarnation, 0, 0, processes.boot_id(), spec, time.time())
        self._files.reserve(handle)
        try:
            pid, begin = self._fork(spec, keep)
        except OSError:
            self._files.remove(spec.name, spec.incarnation)
            raise
        handle = replace(handle, pid=pid, start_ticks=processes.start_ticks(pid))
        self._files.write(handle)
        self._handles[(spec.name, spec.incarnation)] = handle
        begin()
        log.info("started %s", spec.name, extra={"action": "process_started", "pid": pid, "n": spec.incarnation})
        return handle

    def _fork(self, spec: SpawnSpec, keep: tuple[int, ...]) -> tuple[int, Callable[[], None]]:
        if spec.kind is ProcessKind.REPLICA and (forked := self._nurseries.fork(spec)) is not None:
            return forked
        if not spec.argv:
            self._preloader.finish()
            self._preloaded()
        pid, gate = fork_child(spec, keep)
        return pid, gate.open

    def _shed(self) -> None:
        """In a nursery, right after its fork: what is the front's is not ours."""
        signal.set_wakeup_fd(-1)
        for connection in self._connections:
            connection.sock.close()
        self._listener.close()
        self._selector.close()

    # --- ending -----------------------------------------------------------------------------------------------------

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._nurseries.pids:
                self._nurseries.ended(pid)
            else:
                self._reaped(pid, status)

    def _reaped(self, pid: int, status: int) -> None:
        """A process of ours ended. Orphans that came to us by the subreaper rule end here too, unnamed."""
        handle = next((h for h in self._handles.values() if h.pid == pid and h.exited is None), None)
        if handle is None:
            return
        code = os.waitstatus_to_exitcode(status)
        if code >= 0:
            self._ended(handle, Exit(handle.name, handle.kind, handle.incarnation, returncode=code, at_s=time.time()))
        else:
            self._ended(handle, Exit(handle.name, handle.kind, handle.incarnation, signal=-code, at_s=time.time()))

    def _ended(self, handle: Handle, exit_: Exit) -> None:
        if not processes.kill_session(handle.pid):
            log.error("%s left processes that do not die", handle.name, extra={"action": "session_stuck"})
        self._kill_orphans()
        ended = replace(handle, exited=exit_)
        self._handles[(handle.name, handle.incarnation)] = ended
        with contextlib.suppress(OSError):  # a full disk must not hide the end of a process
            self._files.write(ended)
        log.info("%s %s", handle.name, exit_.describe(), extra={"action": "process_ended", "pid": handle.pid})
        for connection in tuple(self._connections):
            self._send(connection, Reply(0, exit=exit_))

    def _kill_orphans(self) -> None:
        """What a dead child had put into a session of its own is our child now, by the subreaper rule."""
        ours = {h.pid for h in self._handles.values() if h.exited is None} | self._nurseries.pids
        for stat in processes.all_processes():
            if stat.ppid == os.getpid() and stat.pid not in ours and stat.state not in "ZX":
                log.warning("killing an orphan", extra={"action": "orphan_killed", "pid": stat.pid})
                processes.kill(stat.pid, signal.SIGKILL)

    def _get(self, name: str, incarnation: int) -> Handle:
        handle = self._handles.get((name, incarnation))
        if handle is None:
            raise NotFoundError(f"{name}.{incarnation} is not known here")
        return handle

    def _signal(self, name: str, incarnation: int, signum: int) -> bool:
        handle = self._get(name, incarnation)
        return handle.alive() and processes.kill(handle.pid, signum)

    def _kill_group(self, name: str, incarnation: int) -> None:
        handle = self._get(name, incarnation)
        if handle.pid and handle.boot_id == processes.boot_id() and (handle.alive() or handle.exited is not None):
            processes.kill_session(handle.pid)
        self._reap()

    def _forget(self, name: str, incarnation: int) -> None:
        handle = self._handles.get((name, incarnation))
        if handle is not None and handle.exited is None and handle.alive():
            raise ConflictError(f"{name}.{incarnation} (pid {handle.pid}) still runs")
        self._handles.pop((name, incarnation), None)
        self._files.remove(name, incarnation)

    # --- processes of a former launcher -----------------------------------------------------------------------------

    def _find_survivors(self) -> None:
        for handle in self._files.load():
            key = (handle.name, handle.incarnation)
            self._handles[key] = handle
            if handle.exited is not None:
                continue
            try:
                if not handle.alive():
                    raise ProcessLookupError
                pidfd = os.pidfd_open(handle.pid)
            except ProcessLookupError:
                self._ended(handle, Exit.unseen(handle.name, handle.kind, handle.incarnation))
                continue
            self._pidfds[pidfd] = handle
            self._selector.register(pidfd, selectors.EVENT_READ)
            log.info("found %s", handle.name, extra={"action": "survivor_found", "pid": handle.pid})

    def _survivor_ended(self, pidfd: int) -> None:
        handle = self._pidfds.pop(pidfd)
        self._selector.unregister(pidfd)
        os.close(pidfd)
        self._ended(handle, Exit.unseen(handle.name, handle.kind, handle.incarnation))

    # --- the end ----------------------------------------------------------------------------------------------------

    def _shutdown(self) -> None:
        """End everything and leave nothing: SIGTERM, a bounded wait, SIGKILL."""
        self._stopping = True
        running = [handle for handle in self._handles.values() if handle.alive()]
        for handle in running:
            processes.kill(handle.pid, signal.SIGTERM)
        give_up = time.monotonic() + SHUTDOWN_TERM_S
        while any(handle.alive() for handle in running) and time.monotonic() < give_up:
            self._reap()
            time.sleep(0.005)
        for handle in running:
            processes.kill_session(handle.pid)
        for pid in self._nurseries.pids:
            processes.kill(pid, signal.SIGKILL)
        self._reap()
        for name, incarnation in tuple(self._handles):
            self._files.remove(name, incarnation)
        self._handles.clear()  # what is reaped from here on must not write its file again
        self._state.launcher_socket.unlink(missing_ok=True)
        log.info("shut down", extra={"action": "launcher_ended"})
