"""The table of this node's processes: one entry per handle file, and the only place that changes either.

Called by `requests` (what the agent asks), by fork parents' packets and by `front` (who was reaped). Each entry is
reserved on disk before anything is forked, and an end is told as often as there are clients, until it is forgotten.
"""

from __future__ import annotations

import enum
import logging
import os
import selectors
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from serve_rt.agents.launcher.forking import fork_child
from serve_rt.agents.launcher.handle_files import HandleFiles
from serve_rt.agents.launcher.http_sockets import HttpSockets
from serve_rt.agents.launcher.nurseries import Nurseries
from serve_rt.agents.launcher.nursery_link import NurseryLink
from serve_rt.agents.launcher.packets import Packet
from serve_rt.agents.launcher.processes import stat_of
from serve_rt.agents.launcher.reactor import Reactor
from serve_rt.agents.launcher.records import Exit, Handle, SpawnSpec
from serve_rt.agents.launcher.sweeping import Sweep
from serve_rt.errors import ConfigError, ConflictError, ServeException, UnavailableError
from serve_rt.model.transitions import Transitions, move

log = logging.getLogger(__name__)
Key = tuple[str, int]
Answer = Callable[[Handle | ServeException], None]
_MAX_TRIES = 3
_MAX_UNCLAIMED = 256


class EntryState(enum.Enum):
    RESERVED = "reserved"
    RUNNING = "running"
    EXITED = "exited"


ENTRY_TRANSITIONS: Transitions[EntryState] = {
    EntryState.RESERVED: frozenset({EntryState.RUNNING, EntryState.EXITED}),
    EntryState.RUNNING: frozenset({EntryState.EXITED}),
    EntryState.EXITED: frozenset(),
}


@dataclass(slots=True)
class Entry:
    handle: Handle
    state: EntryState = EntryState.RESERVED
    parent: NurseryLink | None = None
    """The fork parent that will reap it; None: we do, or (adopted) nobody can."""
    waiting: list[Answer] = field(default_factory=list)
    tries: int = 0
    adopted: bool = False
    """Forked by a launcher before us: what it leaves behind is not our child."""
    swept: bool = False
    """Nothing of it was left when we last looked, after its end: its session id may name strangers by now."""

    def move(self, state: EntryState) -> None:
        self.state = move(ENTRY_TRANSITIONS, self.state, state, f"process {self.handle.name}.{self.handle.incarnation}")


class Children:
    def __init__(
        self, reactor: Reactor, files: HandleFiles, sockets: HttpSockets, on_exit: Callable[[Exit], None]
    ) -> None:
        self._reactor, self._files, self._sockets, self._on_exit = reactor, files, sockets, on_exit
        self.nurseries: Nurseries | None = None
        self.closing = False
        """The launcher ends: nothing is started any more."""
        self._entries: dict[Key, Entry] = {}
        self._by_pid: dict[int, Entry] = {}
        self._unclaimed: dict[int, int] = {}

    # --- what clients ask -----------------------------------------------------------------------------------------

    def handles(self) -> list[Handle]:
        """All that has run; a reservation is no process yet."""
        return [entry.handle for entry in self._entries.values() if entry.state is not EntryState.RESERVED]

    def running(self) -> list[Entry]:
        return [entry for entry in self._entries.values() if entry.state is not EntryState.EXITED]

    def spawn(self, spec: SpawnSpec, answer: Answer) -> None:
        entry = self._entries.get(spec.key)
        if entry is not None:
            if entry.state is EntryState.RESERVED:
                entry.waiting.append(answer)
            else:
                answer(entry.handle)  # asked twice: the first outcome
            return
        try:
            if self.closing:
                raise UnavailableError(f"{spec.name} is not started: the launcher ends")
            self._check(spec)
            entry = Entry(Handle(spec.kind, spec.name, spec.incarnation, spec))
            self._files.reserve(entry.handle)
        except ServeException as error:
            answer(error)
            return
        self._entries[spec.key] = entry
        entry.waiting.append(answer)
        self._fork(entry)

    def signal(self, name: str, incarnation: int, signum: int) -> bool:
        entry = self._entries.get((name, incarnation))
        if entry is None or entry.state is not EntryState.RUNNING:
            return False
        return entry.handle.process.signal(signum)

    def starting(self, name: str, incarnation: int) -> bool:
        """Asked for, not forked yet."""
        entry = self._entries.get((name, incarnation))
        return entry is not None and entry.state is EntryState.RESERVED

    def sweep(self, name: str, incarnation: int) -> Sweep | None:
        """Kills the process and all it left, while it is polled; None when there is nothing to do."""
        entry = self._entries.get((name, incarnation))
        if entry is None or entry.swept or entry.state is EntryState.RESERVED:
            return None
        return self._sweep(entry)

    def forget(self, name: str, incarnation: int) -> None:
        """*Errors*: ConflictError while it runs."""
        entry = self._entries.get((name, incarnation))
        if entry is None:
            return
        if entry.state is not EntryState.EXITED:
            raise ConflictError(f"{name}.{incarnation} still runs (pid {entry.handle.pid}): end it first")
        del self._entries[entry.handle.key]
        self._files.remove(name, incarnation)

    # --- what was here before us ----------------------------------------------------------------------------------

    def adopt(self) -> None:
        """Take over the handle files of the launcher before us. Its children are not ours: a pidfd tells their end."""
        for handle in self._files.all():
            entry = self._entries[handle.key] = Entry(handle, adopted=True)
            if handle.exited is not None:
                entry.move(EntryState.EXITED)
                self._begin_sweep(entry)
                continue
            pidfd = handle.process.open()
            if pidfd is None:
                reason = "it ended unseen" if handle.pid else "the launcher ended before it was started"
                self._end(entry, Exit(handle.name, handle.kind, handle.incarnation, at_s=time.time(), reason=reason))
                continue
            entry.move(EntryState.RUNNING)
            self._by_pid[handle.pid] = entry
            self._watch_stranger(entry, pidfd)

    def _watch_stranger(self, entry: Entry, pidfd: int) -> None:
        def ended(_events: int) -> None:
            self._reactor.forget(pidfd)
            os.close(pidfd)
            if entry.state is EntryState.RUNNING:
                self._end(entry, self._unseen(entry))

        self._reactor.watch(pidfd, selectors.EVENT_READ, ended)

    # --- forks ----------------------------------------------------------------------------------------------------

    def _check(self, spec: SpawnSpec) -> None:
        if not spec.name or "/" in spec.name or "\0" in spec.name:
            raise ConfigError(f"{spec.name!r} is no name for a process")
        if bool(spec.entry) == bool(spec.argv):
            raise ConfigError(f"{spec.name} needs either an entry (module:function) or a command line")
        if spec.entry and not all(spec.entry.partition(":")):
            raise ConfigError(f"the entry of {spec.name} is {spec.entry!r}: it must read module:function")
        highest = max((inc for name, inc in self._entries if name == spec.name), default=None)
        if highest is not None and spec.incarnation < highest:
            raise ConflictError(f"incarnation {spec.incarnation} of {spec.name} is over: {highest} is reserved")

    def _fork(self, entry: Entry) -> None:
        spec = entry.handle.spec
        entry.tries += 1
        try:
            if spec.argv:
                self._started(entry, fork_child(entry.handle, self._files))
                return
            fds = () if spec.http_slot is None else (self._sockets.listening(spec.http_slot),)
            assert self.nurseries is not None
            entry.parent = self.nurseries.fork(entry.handle, fds)
        except (ServeException, OSError) as error:
            self._not_started(entry, str(error))

    def packet(self, link: NurseryLink, packet: Packet) -> None:
        """A fork parent's news."""
        match packet["event"]:
            case "forked" | "failed":
                entry = self._entries.get((packet["name"], packet["incarnation"]))
                if entry is None or entry.state is not EntryState.RESERVED:
                    return
                handle = self._files.read(*entry.handle.key)
                if packet["event"] == "failed" or handle is None or not handle.pid:
                    self._not_started(entry, packet.get("message", "its handle file is gone"))
                else:
                    self._started(entry, handle)
            case "exited":
                self.reaped(packet["pid"], packet["status"])

    def parent_lost(self, link: NurseryLink) -> None:
        """Its children are ours now; what it was asked for and did not do is done by another."""
        for entry in [entry for entry in self._entries.values() if entry.parent is link]:
            entry.parent = None
            if entry.state is EntryState.RESERVED:
                self._fork_again(entry)
        for entry in [entry for entry in self._entries.values() if entry.state is EntryState.RUNNING]:
            if entry.parent is None:
                self._look_after(entry)

    def _fork_again(self, entry: Entry) -> None:
        handle = self._files.read(*entry.handle.key)
        if handle is not None and handle.pid:  # it was let go before the fork parent died
            self._started(entry, handle)
        elif entry.tries >= _MAX_TRIES:
            self._not_started(entry, f"{_MAX_TRIES} fork parents died over it: see launcher.log")
        else:
            self._fork(entry)

    def _look_after(self, entry: Entry) -> None:
        """It may have been reaped by a fork parent that died before it could tell."""
        stat = stat_of(entry.handle.pid)
        if stat is None or stat.start_ticks != entry.handle.start_ticks:
            self._end(entry, self._unseen(entry))

    def _started(self, entry: Entry, handle: Handle) -> None:
        entry.handle = handle
        entry.move(EntryState.RUNNING)
        self._by_pid[handle.pid] = entry
        log.info(
            "started %s.%d",
            handle.name,
            handle.incarnation,
            extra={"action": "process_started", "pid": handle.pid, "kind": handle.kind.value},
        )
        for answer in _taken(entry.waiting):
            answer(handle)
        status = self._unclaimed.pop(handle.pid, None)
        if status is not None:
            self.reaped(handle.pid, status)

    def _not_started(self, entry: Entry, message: str) -> None:
        """Nothing ran: the incarnation may be asked for again."""
        self._entries.pop(entry.handle.key, None)
        self._files.remove(*entry.handle.key)
        for answer in _taken(entry.waiting):
            answer(UnavailableError(f"{entry.handle.name} could not be started: {message}"))

    # --- ends -----------------------------------------------------------------------------------------------------

    def reaped(self, pid: int, status: int) -> None:
        """A child of ours or of a fork parent is gone."""
        entry = self._by_pid.get(pid)
        if entry is None:
            self._unclaimed[pid] = status  # a fork parent's, whose packet or end is not read yet; or an orphan
            while len(self._unclaimed) > _MAX_UNCLAIMED:
                del self._unclaimed[next(iter(self._unclaimed))]
            return
        code = os.waitstatus_to_exitcode(status)
        seen = replace(self._unseen(entry), reason="")
        self._end(entry, replace(seen, signal=-code) if code < 0 else replace(seen, returncode=code))

    def _unseen(self, entry: Entry) -> Exit:
        handle = entry.handle
        return replace(Exit.unseen(handle.name, handle.kind, handle.incarnation), at_s=time.time())

    def _end(self, entry: Entry, exit_: Exit) -> None:
        entry.move(EntryState.EXITED)
        self._by_pid.pop(entry.handle.pid, None)
        entry.parent = None
        entry.handle = replace(entry.handle, exited=exit_)
        try:
            self._files.write(entry.handle)
        except OSError as error:  # the next launcher finds it dead and says so
            log.error("cannot write a handle file: %s", error.strerror, extra={"action": "handle_not_written"})
        log.info(
            "%s.%d ended: %s",
            exit_.name,
            exit_.incarnation,
            exit_.describe(),
            extra={"action": "process_ended", "pid": entry.handle.pid},
        )
        self._begin_sweep(entry)
        self._on_exit(exit_)

    def _begin_sweep(self, entry: Entry) -> None:
        """In the background; a client that must know asks for its own."""
        if entry.handle.pid and not entry.swept:
            self._reactor.poll_until(self._sweep(entry).done)

    def _sweep(self, entry: Entry) -> Sweep:
        return Sweep(
            entry.handle,
            is_over=lambda: entry.state is EntryState.EXITED,
            living=lambda: [other.handle for other in self.running() if other is not entry],
            ours=lambda: {os.getpid(), *(self.nurseries.pids if self.nurseries is not None else ())},
            ours_by_birth=not entry.adopted,
            on_clean=lambda: setattr(entry, "swept", entry.state is EntryState.EXITED),
        )


def _taken(waiting: list[Answer]) -> Iterable[Answer]:
    taken = list(waiting)
    waiting.clear()
    return taken
