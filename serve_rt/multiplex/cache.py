"""The models one loader of one instance holds: least recently used goes first, one in use never.

A model is in use while a request that asked for it runs; requests are known by the `cancelled` event of their context,
which dies with them. Different models load side by side, the same model is loaded once for all who ask. Lives on the
event loop of its callers.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from threading import Event
from typing import Any

from serve_rt.context import current_request
from serve_rt.errors import ServeException
from serve_rt.multiplex import measured
from serve_rt.multiplex.held import held

log = logging.getLogger(__name__)
ROOM_TIMEOUT_S = 60.0
"""How long a load waits for a model to get out of use."""

Loader = Callable[[str], Awaitable[Any]]
"""Any: a model is whatever the user's loader returns."""


@dataclass(eq=False)
class _Place:
    """A model that is loading or loaded."""

    model: asyncio.Future[Any]
    users: weakref.WeakSet[Event] = field(default_factory=weakref.WeakSet)


class ModelCache:
    def __init__(self, load: Loader, limit: int) -> None:
        self._load = load
        self._limit = limit
        """-1: no limit."""
        self._places: OrderedDict[str, _Place] = OrderedDict()
        self._loading: set[asyncio.Future[Any]] = set()
        self._room = asyncio.Event()

    def model_ids(self) -> list[str]:
        """Loading and loaded, least recently used first."""
        return list(self._places)

    async def get(self, model_id: str) -> Any:
        """*Errors*: what the loader raises; ServeException when no model gets out of use within ROOM_TIMEOUT_S."""
        measured.asked()
        while (place := self._places.get(model_id)) is None:
            if await self._made_room(model_id):
                place = self._start_load(model_id)
                break
        self._places.move_to_end(model_id)
        self._use(place)
        # Shielded: one request that is cancelled must not take the model from the others that wait for it.
        return await asyncio.shield(place.model)

    def _start_load(self, model_id: str) -> _Place:
        # A future of its own: a kept task would keep the context it ran in, and with it the request, in use for ever.
        place = self._places[model_id] = _Place(asyncio.get_running_loop().create_future())
        place.model.add_done_callback(_seen)
        held.tell(self, self.model_ids())
        loading = asyncio.ensure_future(self._load(model_id))
        self._loading.add(loading)
        began = time.monotonic()
        loading.add_done_callback(lambda loaded: self._loaded(model_id, place, loaded, time.monotonic() - began))
        return place

    def _loaded(self, model_id: str, place: _Place, loaded: asyncio.Future[Any], took_s: float) -> None:
        self._loading.discard(loaded)
        failed = loaded.cancelled() or loaded.exception() is not None
        if not failed:
            measured.loaded(took_s)
        if failed and self._places.get(model_id) is place:
            del self._places[model_id]  # the next one who asks tries again
            held.tell(self, self.model_ids())
        self._room.set()
        if place.model.done():  # closed meanwhile
            return
        if loaded.cancelled():
            place.model.set_exception(ServeException(f"loading model {model_id!r} was cancelled"))
        elif failed:
            place.model.set_exception(loaded.exception() or ServeException("unknown"))
        else:
            place.model.set_result(loaded.result())

    def _use(self, place: _Place) -> None:
        request = current_request.get()
        if request is None or request.cancelled in place.users:
            return
        place.users.add(request.cancelled)
        loop = asyncio.get_running_loop()
        weakref.finalize(request.cancelled, _wake, loop, self._room).atexit = False

    async def _made_room(self, model_id: str) -> bool:
        """True when `model_id` can be loaded now; False when the world has changed and must be looked at again."""
        if self._limit < 0 or len(self._places) < self._limit:
            return True
        victim = next((name for name, place in self._places.items() if self._is_idle(place)), None)
        if victim is not None:
            place = self._places.pop(victim)
            held.tell(self, self.model_ids())
            await _unload(place.model.result())
            return False
        await self._wait_for_room(model_id)
        return False

    def _is_idle(self, place: _Place) -> bool:
        return place.model.done() and not place.users

    async def _wait_for_room(self, model_id: str) -> None:
        self._room.clear()
        try:
            async with asyncio.timeout(ROOM_TIMEOUT_S):
                await self._room.wait()
        except TimeoutError as error:
            raise ServeException(
                f"model {model_id!r} cannot be loaded: all {self._limit} models of this replica are in use; raise "
                "max_num_models_per_replica or num_replicas"
            ) from error

    async def close(self) -> None:
        """Unload everything, in use or not; the replica is ending."""
        places, self._places = self._places, OrderedDict()
        for loading in self._loading:
            loading.cancel()
        for place in places.values():
            if place.model.done() and not place.model.cancelled() and place.model.exception() is None:
                await _unload(place.model.result())
            else:
                place.model.cancel()


def _seen(model: asyncio.Future[Any]) -> None:
    """A failed load of which every waiter was cancelled is no news."""
    if not model.cancelled():
        model.exception()


def _wake(loop: asyncio.AbstractEventLoop, room: asyncio.Event) -> None:
    try:
        loop.call_soon_threadsafe(room.set)
    except RuntimeError:  # the loop is closed: nobody waits
        pass


async def _unload(model: Any) -> None:
    """Call the model's own `__del__`, as Ray does. What it raises is logged: the request that wants the place of this
    model has no part in it."""
    began = time.monotonic()
    last_words = getattr(type(model), "__del__", None)
    if last_words is None:
        measured.unloaded(0.0)
        return
    try:
        said = last_words(model) if inspect.iscoroutinefunction(last_words) else None
        if said is not None:
            await said
        elif not inspect.iscoroutinefunction(last_words):
            await asyncio.to_thread(last_words, model)
    except Exception:  # user code
        log.exception("__del__ of a %s failed", type(model).__name__, extra={"action": "model_not_unloaded"})
    finally:
        measured.unloaded(time.monotonic() - began)
        # Python would call it a second time when the last reference goes; a model that allows it is told once.
        try:
            model.__class__ = type(type(model).__name__, (type(model),), {"__del__": lambda self: None})
        except TypeError:  # slots or a C type: it must bear the second call
            pass
