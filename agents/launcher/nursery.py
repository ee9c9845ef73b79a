"""A fork parent that has learned: it imports what constructors needed, then forks replicas that find it all imported.

Forked by the front process (`front`), which speaks to it over a socket pair and stays in charge of handle files and
orders. Measured reason: a transformers model is ready 0.14 s after a fork from here, 1.6 s after a fork from a parent
that only knows `import torch, transformers`.

It must stay safe to fork: one thread, no GPU device open, CUDA not initialised. That is checked after each import; the
first module that breaks it is reported and the nursery ends. A retired nursery stays the parent of its replicas and
ends with the last; it ends so too when the front process dies.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import logging
import os
import selectors
import signal
import socket
import sys
import warnings
from typing import NoReturn

from serve_rt.agents.launcher import processes
from serve_rt.agents.launcher.child import Gate, fork_child
from serve_rt.agents.launcher.protocol import (
    Fork,
    Forked,
    Go,
    Import,
    Imported,
    LineBuffer,
    Reaped,
    Retire,
    ToNursery,
    line,
    to_nursery_decoder,
)

log = logging.getLogger(__name__)


def run_nursery(channel: socket.socket) -> NoReturn:
    """The life of a nursery, from its fork to its end. Never returns into the front's loop."""
    try:
        Nursery(channel).run()
    except BaseException:  # the edge of a process
        log.exception("the nursery failed", extra={"action": "nursery_failed"})
    finally:
        os._exit(0)


class Nursery:
    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._buffer = LineBuffer()
        self._gates: dict[int, Gate] = {}
        self._children: set[int] = set()
        self._retired = False
        self._connected = True

    def run(self) -> None:
        woken, wakes = socket.socketpair()
        for end in (woken, wakes):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
        selector = selectors.DefaultSelector()
        selector.register(woken, selectors.EVENT_READ)
        selector.register(self._channel, selectors.EVENT_READ)
        while not (self._retired and not self._children):
            for key, _ in selector.select(timeout=5.0):
                if key.fileobj is woken:
                    with contextlib.suppress(BlockingIOError):
                        woken.recv(4096)
                elif not self._read():
                    selector.unregister(self._channel)
                    self._orphaned()
            self._reap()

    # --- what the front says ----------------------------------------------------------------------------------------

    def _read(self) -> bool:
        """False when the front is gone."""
        try:
            data = self._channel.recv(1 << 16)
        except OSError:
            return False
        for text in self._buffer.feed(data):
            self._obey(to_nursery_decoder.decode(text))
        return bool(data)

    def _obey(self, message: ToNursery) -> None:
        match message:
            case Import(modules):
                self._say(self._import(modules))
            case Fork(spec):
                pid, gate = fork_child(spec)
                self._children.add(pid)
                self._gates[pid] = gate
                self._say(Forked(pid))
            case Go(pid):
                self._gates.pop(pid).open()
            case Retire():
                self._retired = True

    def _orphaned(self) -> None:
        """The front died: children not yet let go end at their gates, the others have us as parent until they end."""
        self._connected = False
        self._retired = True
        for gate in self._gates.values():
            os.close(gate.fd)
        self._gates.clear()

    # --- imports ----------------------------------------------------------------------------------------------------

    def _import(self, modules: tuple[str, ...]) -> Imported:
        """Import all; a module that fails is skipped, one that makes forking unsafe ends this nursery."""
        _be_a_batch_process()
        for name in modules:
            if name in sys.modules:
                continue
            _import_quietly(name)
            reason = why_unsafe()
            if reason:
                self._retired = True
                return Imported(modules=0, bad=name, reason=reason)
        gc.collect()
        gc.freeze()
        return Imported(modules=len(modules))

    # --- ends -------------------------------------------------------------------------------------------------------

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._children.discard(pid)
            gate = self._gates.pop(pid, None)
            if gate is not None:
                os.close(gate.fd)
            self._say(Reaped(pid, status))

    def _say(self, message: Forked | Imported | Reaped) -> None:
        if not self._connected:
            return
        try:
            self._channel.sendall(line(message))
        except OSError:
            self._orphaned()


def _import_quietly(name: str) -> None:
    try:
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(name)
    except BaseException as error:  # a module's top level may do anything, also raise SystemExit
        log.info("not preloaded: %s (%s)", name, error, extra={"action": "module_skipped"})


def why_unsafe() -> str:
    """Why this process must not fork children any more, "" when it may."""
    threads = processes.thread_count()
    if threads != 1:
        return f"{threads} threads run"
    gpus = processes.opened_gpus()
    if gpus:
        return f"{gpus[0]} is open"
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    if cuda is not None and getattr(cuda, "is_initialized", bool)():
        return "CUDA is initialised"
    return ""


def _be_a_batch_process() -> None:
    try:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    except OSError:
        pass
