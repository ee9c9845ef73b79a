"""The actors that this process made and that are to end with it.

For each one call (`serve_own`) is kept open as long as the process lives: when its stream breaks and does not come
back the actor ends itself. A process that ends properly does not make them wait: it deletes them on its way out.
"""

from __future__ import annotations

import atexit
import contextvars
import logging
import os
import threading

from serve_rt.api import session as sessions
from serve_rt.errors import DeploymentUnavailableError, ServeException
from serve_rt.handle.call import CallOptions
from serve_rt.handle.response import ValueSink
from serve_rt.handle.runtime import HandleRuntime, find_runtime
from serve_rt.work.actor_call import ActorCall, ActorPlace
from serve_rt.work.deploying import delete

log = logging.getLogger(__name__)
_OWN = CallOptions("serve_own")
_AGAIN_S = 0.5
_lock = threading.Lock()
_owned: dict[str, _Owned] = {}


class _Owned:
    def __init__(self, runtime: HandleRuntime, place: ActorPlace, *, unique: bool) -> None:
        self.runtime, self._place = runtime, place
        self._unique = unique
        self._call: ActorCall | None = None
        self.over = False

    def begin(self) -> None:
        """From any thread."""
        if self.over or find_runtime() is not self.runtime:
            return
        sink = ValueSink()
        # Not of the request that made the actor: that one ends, the actor stays.
        self._call = contextvars.Context().run(lambda: ActorCall(self.runtime, self._place, (), {}, sink, _OWN))
        sink.answer.add_done_callback(lambda answer: self._ended(answer.exception()))
        self._call.start()

    def _ended(self, error: BaseException | None) -> None:
        """On the loop: the stream broke, or the actor is gone."""
        if self.over:
            return
        if isinstance(error, DeploymentUnavailableError):
            # Its record may tell of a constructor that failed, until we end. A name may be somebody else's by then.
            if not self._unique:
                _forget(self._place)
            return
        self.runtime.loop.call_later(_AGAIN_S, self.begin)

    def end(self) -> None:
        self.over = True
        if self._call is not None:
            self._call.cancel()


def own(runtime: HandleRuntime, place: ActorPlace, *, unique: bool) -> None:
    """`unique`: nobody else can ever make an actor of that name."""
    with _lock:
        owned = _owned[place.key.app] = _Owned(runtime, place, unique=unique)
    owned.begin()


def let_go(place: ActorPlace) -> None:
    owned = _forget(place)
    if owned is not None:
        owned.end()


def _forget(place: ActorPlace) -> _Owned | None:
    with _lock:
        return _owned.pop(place.key.app, None)


def _end_all() -> None:
    """At the end of the process; a cluster of its own ends with it anyway."""
    with _lock:
        mine = [app for app, one in _owned.items() if find_runtime() is one.runtime]
        _owned.clear()
    session = sessions.find() if mine else None
    if session is None or session.own is not None:
        return
    for app in mine:
        try:
            delete(app)
        except (ServeException, TimeoutError, RuntimeError) as error:
            log.warning("%s is left to end by itself: %s", app, error)


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.Lock()
    _owned.clear()  # they are the parent's


atexit.register(_end_all)
os.register_at_fork(after_in_child=_after_fork_in_child)
