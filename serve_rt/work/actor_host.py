"""The replica's side of an actor: holds the one instance, runs its methods in the order they come, watches its owner.

Calls arrive on the event loop in the order in which their caller sent them, and take their turn there: at most
`max_concurrency` at a time, first come, first served. Plain methods run in threads of the actor's own; with one at a
time that is always the same thread, which has made the instance, too.

An actor that is not detached belongs to the process that made it, which keeps one call (`serve_own`) open as long as it
lives. When that has been missing for `owner_grace_s` the actor ends itself: it deletes its application.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from serve_rt.api.payload import Payload, unpack
from serve_rt.api.replica_context import find_replica_context
from serve_rt.errors import ServeException
from serve_rt.model.status import ApplicationStatus

log = logging.getLogger(__name__)
MOST_THREADS = 256


@dataclass(frozen=True)
class Terms:
    """What the actor was made with, beside its class and arguments."""

    name: str
    max_concurrency: int
    max_restarts: int
    owned: bool
    owner_grace_s: float


class ActorHost:
    def __init__(self, packed: bytes, terms: Terms) -> None:
        self._terms = terms
        self._end_if_used_up()
        self._turns = asyncio.Semaphore(terms.max_concurrency)
        self._threads = ThreadPoolExecutor(min(terms.max_concurrency, MOST_THREADS), thread_name_prefix="actor")
        # In the thread in which its plain methods run when it has one: connections and the like may insist on that.
        self._instance = self._threads.submit(_make, packed).result()
        self._owners = 0
        self._end_timer: asyncio.TimerHandle | None = None
        if terms.owned:
            self._expect_owner()

    async def serve_call(self, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """One call of the user's method. *Errors*: AttributeError naming the methods there are; what it raised."""
        function = self._method(method)
        async with self._turns:
            if inspect.iscoroutinefunction(function):
                return await function(*args, **kwargs)
            result = await self._in_thread(function, args, kwargs)
            return await result if inspect.isawaitable(result) else result

    async def _in_thread(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(self._threads, lambda: context.run(function, *args, **kwargs))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait({work})  # a thread cannot be stopped, and the next in turn must not meet it
            raise

    def _method(self, name: str) -> Callable[..., Any]:
        found = None if name.startswith("_") and name != "__call__" else getattr(self._instance, name, None)
        if callable(found):
            return found  # type: ignore[no-any-return]  # an attribute of the user's object that is callable
        raise AttributeError(
            f"actor {self._terms.name} has no method {name!r}. It has: {methods_of(type(self._instance))}"
        )

    async def check_health(self) -> None:
        """The user's, where there is one."""
        own = getattr(self._instance, "check_health", None)
        if callable(own):
            result = own()
            if inspect.isawaitable(result):
                await result

    def __del__(self) -> None:
        """The runtime's last call to a replica's instance: handed on."""
        own = getattr(getattr(self, "_instance", None), "__del__", None)
        if callable(own):
            own()

    # --- its owner ------------------------------------------------------------------------------------------------

    async def serve_own(self) -> None:
        """Called once by the owner, for as long as it lives."""
        self._owners += 1
        if self._end_timer is not None:
            self._end_timer.cancel()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self._owners -= 1
            if not self._owners:
                self._expect_owner()

    def _expect_owner(self) -> None:
        if find_replica_context() is None:  # local testing mode: it is in its owner
            return
        self._end_timer = asyncio.get_running_loop().call_later(self._terms.owner_grace_s, self._abandoned)

    def _abandoned(self) -> None:
        log.warning("actor %s: its owner is gone, it ends", self._terms.name, extra={"action": "actor_abandoned"})
        threading.Thread(target=_end_self, name="end of the actor", daemon=True).start()

    # --- its lives ------------------------------------------------------------------------------------------------

    def _end_if_used_up(self) -> None:
        """The agent starts a process that was lost again; whether the actor may live again is said here.

        *Errors*: ServeException when it may not; its application is deleted then.
        """
        context, most = find_replica_context(), self._terms.max_restarts
        if context is None or most < 0:
            return
        restarts = max(context.incarnation - 1, int(_was_there_before(context.app_name)))
        if restarts > most:
            _end_self()
            raise ServeException(
                f"actor {self._terms.name} was lost and has ended: max_restarts={most} allows no further start"
            )
        if restarts:
            log.warning("actor %s starts again, without its state", self._terms.name, extra={"action": "actor_again"})


def methods_of(kind: type) -> list[str]:
    """The methods that can be called from outside.

    >>> class Counter:
    ...     def add(self, n): ...
    ...     def _hidden(self): ...
    >>> methods_of(Counter)
    ['add']
    """
    names = [name for name in dir(kind) if not name.startswith("_") or name == "__call__"]
    return [name for name in names if callable(inspect.getattr_static(kind, name, None)) or _is_wrapped(kind, name)]


def _is_wrapped(kind: type, name: str) -> bool:
    return isinstance(inspect.getattr_static(kind, name, None), staticmethod | classmethod)


def _make(packed: bytes) -> Any:
    payload: Payload = unpack(packed)
    return payload.target(*payload.args, **payload.kwargs)


def _was_there_before(app: str) -> bool:
    """Whether this actor was ready once, here or on another node: then its application is no longer on its way."""
    from serve_rt.api import session as sessions

    session = sessions.current()
    now = session.run(session.client.status(), 10.0).applications.get(app)
    return now is not None and now.status not in (ApplicationStatus.DEPLOYING, ApplicationStatus.NOT_STARTED)


def _end_self() -> None:
    context = find_replica_context()
    if context is not None:
        from serve_rt.work.deploying import delete

        delete(context.app_name)
