"""Calls of an actor's methods, on the runtime's loop: they leave in the order in which they were made.

An actor's calls of one process form a lane: one that must wait for something (the actor is being made, an argument is
another call's answer) holds up those behind it, so that the actor sees them in order. What is sent waits in the actor.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from serve_rt.errors import ActorDiedError, DeploymentUnavailableError, ReplicaDiedError
from serve_rt.handle.call import Call, CallOptions
from serve_rt.handle.response import ValueSink
from serve_rt.handle.runtime import HandleRuntime
from serve_rt.model.ids import DeploymentKey
from serve_rt.work.ref import Place

if TYPE_CHECKING:
    from serve_rt.routing import Exchange

CALL = CallOptions("serve_call")


class Lane:
    """Of one actor, in one process."""

    def __init__(self) -> None:
        self.waiting = 0
        """Calls that were begun and are not sent yet."""
        self.turn = asyncio.Lock()


class ActorPlace(Place):
    """An actor as calls see it. `lane` is used on the runtime's loop only."""

    def __init__(self, key: DeploymentKey, shown: str, *, ready: bool) -> None:
        self.key = key
        self.shown = shown
        self.ready = ready
        self.ended = False
        """It was killed by this process: its route says so a moment later."""
        self.lane = Lane()
        self.made: asyncio.Future[None] | None = None
        """While it is being made by this process."""

    async def opened(self, runtime: HandleRuntime) -> None:
        """*Errors*: why it could not be made."""
        if self.made is not None:
            await asyncio.shield(self.made)

    def forget(self) -> None:
        """An actor that is gone is not made again."""


_lock = threading.Lock()
_places: weakref.WeakValueDictionary[str, ActorPlace] = weakref.WeakValueDictionary()


def place_of(key: DeploymentKey, shown: str) -> ActorPlace:
    """Of an actor that is there: one for all its handles in this process, so that they share its lane."""
    with _lock:
        place = _places.get(key.app)
        if place is None or place.ended:
            place = _places[key.app] = ActorPlace(key, shown, ready=True)
        return place


def new_place(key: DeploymentKey, shown: str) -> ActorPlace:
    """Of an actor that is yet to be made."""
    with _lock:
        place = _places[key.app] = ActorPlace(key, shown, ready=False)
        return place


class ActorCall(Call):
    def __init__(
        self,
        runtime: HandleRuntime,
        place: ActorPlace,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        sink: ValueSink,
        options: CallOptions = CALL,
    ) -> None:
        super().__init__(runtime, place.key, options, args, kwargs, sink)
        self._place = place
        self._in_lane = False

    def _open_at_once(self) -> Exchange | None:
        if self._place.ended:
            raise DeploymentUnavailableError(self.key, "This process killed it.")
        lane = self._place.lane
        if self._place.ready and not lane.waiting:
            exchange = super()._open_at_once()
            if exchange is not None:
                return exchange
        self._in_lane = True
        lane.waiting += 1
        return None

    async def _pack(self) -> None:
        try:
            await self._place.lane.turn.acquire()
        except BaseException:
            self._leave_lane()
            raise
        try:
            await super()._pack()
        except BaseException:
            self._place.lane.turn.release()
            self._leave_lane()
            raise

    async def _open(self) -> Exchange:
        try:
            if not self._place.ready:
                await self._place.opened(self._runtime)
            return await super()._open()
        finally:
            self._place.lane.turn.release()
            self._leave_lane()

    def _driven(self, task: asyncio.Task[None]) -> None:
        self._leave_lane()  # it may have been cancelled before its first step
        super()._driven(task)

    def _leave_lane(self) -> None:
        if self._in_lane:
            self._in_lane = False
            self._place.lane.waiting -= 1


class ActorSink(ValueSink):
    """Errors in the words of actors."""

    def __init__(self, shown: str) -> None:
        super().__init__()
        self._shown = shown

    def fail(self, error: BaseException) -> None:
        super().fail(told(self._shown, error))


def told(shown: str, error: BaseException) -> BaseException:
    if isinstance(error, ReplicaDiedError):
        died = ActorDiedError(
            f"actor {shown} was lost while it had the call (the work: {error.outcome.value}); its state is gone. Where "
            "max_restarts allows it, it starts again from its constructor."
        )
        died.outcome = error.outcome
        died.__cause__ = error
        return died
    if isinstance(error, DeploymentUnavailableError):
        why = error.message.strip()
        return ActorDiedError(
            f"actor {shown} has ended: it was killed, it was lost, its constructor failed, or its owner is gone. {why}"
        )
    return error
