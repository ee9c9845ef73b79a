"""The node's own processes that are no replicas: embedded etcd, controller candidate, proxy workers.

Each has one Child that wants exactly one live process. A former agent's is adopted when it was started the same way,
replaced when its settings differ; one that ends is started again at once, then with a small back-off. `replace` is the
hot restart of a proxy: the successor accepts connections before the old one is told to drain, and a successor that
never does leaves the old one where it is.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace

from serve_rt.agents.launcher.records import Exit, Handle, ProcessKind, SpawnSpec
from serve_rt.agents.launcher_link import LauncherLink
from serve_rt.aio import Clock, TaskOwner
from serve_rt.errors import ServeException, UnavailableError

log = logging.getLogger(__name__)
_RESTART_S = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0)
_STABLE_S = 30.0
_CHOSEN_BY_LAUNCHER = frozenset({"socket_fd"})
Up = Callable[[Handle], Awaitable[bool]]
"""Does the process do its work now? False when it ended or took too long."""


async def _up_at_once(_handle: Handle) -> bool:
    return True


class Child:
    """One named process that shall run."""

    def __init__(
        self, spec: SpawnSpec, launcher: LauncherLink, clock: Clock, tasks: TaskOwner, up: Up = _up_at_once
    ) -> None:
        self.spec = spec
        self._up = up
        self._spawning = asyncio.Lock()
        self._succeeding = False
        self.handle: Handle | None = None
        self._launcher, self._clock, self._tasks = launcher, clock, tasks
        self._incarnation = 0
        self._failures = 0
        self._started_at = 0.0
        self._restarting = False
        self._stopped = False
        self.lame: set[int] = set()
        """Older incarnations that are draining."""

    async def ensure(self, found: Iterable[Handle]) -> Handle:
        """Adopt the newest live process that is as we want it, else start one. *Errors*: ServeException."""
        mine = sorted((h for h in found if h.name == self.spec.name), key=lambda h: h.incarnation)
        self._incarnation = max((h.incarnation for h in mine), default=0)
        for old in mine:
            if old.exited is not None:
                self._forget(old.incarnation)
        alive = [h for h in mine if h.exited is None]
        if alive and self._fits(alive[-1]):
            self.handle = alive.pop()
            self._started_at = self._clock.monotonic()
            log.info("adopted %s", self.spec.name, extra={"action": "child_adopted", "pid": self.handle.pid})
        elif alive:
            self.handle = alive.pop()
            await self._upgrade()
        else:
            await self._spawn()
        for old in alive:
            await self._retire(old.incarnation)
        assert self.handle is not None
        return self.handle

    async def replace(self) -> None:
        """Start a successor, and let the old one drain when it is up.

        *Errors*: ServeException when it did not come up; the old one goes on.
        """
        async with self._spawning:
            await self._succeed()

    async def _upgrade(self) -> None:
        try:
            await self.replace()
        except ServeException as error:
            log.error("%s stays as it was: %s", self.spec.name, error, extra={"action": "child_not_replaced"})

    async def _succeed(self) -> None:
        old = self.handle
        self._succeeding = True
        try:
            await self._spawn()
            new = self.handle
            if old is None or new is None or await self._up(new):
                if old is not None:
                    await self._retire(old.incarnation)
                return
            if not old.alive():
                return  # whatever the new one is, there is no other
            self.handle = old
            await self._give_up_on(new)
        finally:
            self._succeeding = False
            if self.handle is None or not self.handle.alive():
                self._restart_soon()
        raise UnavailableError(f"the successor of {self.spec.name} did not come up: see {self.spec.log_path}")

    async def _give_up_on(self, new: Handle) -> None:
        self.lame.add(new.incarnation)
        try:
            await self._launcher.kill_group(new.name, new.incarnation)
        except ServeException as error:
            log.warning("cannot kill %s: %s", new.name, error, extra={"action": "kill_failed"})

    def exited(self, exit_: Exit) -> None:
        self.lame.discard(exit_.incarnation)
        self._forget(exit_.incarnation)
        if self.handle is None or exit_.incarnation != self.handle.incarnation or self._succeeding:
            return  # _succeed looks for itself
        log.warning("%s ended: %s", self.spec.name, exit_.describe(), extra={"action": "child_ended"})
        self._restart_soon()

    def _restart_soon(self) -> None:
        self.handle = None
        if self._stopped or self._restarting:
            return
        if self._clock.monotonic() - self._started_at >= _STABLE_S:
            self._failures = 0
        self._restarting = True
        self._tasks.start(self._restart(), name=f"restart {self.spec.name}")

    def unseen(self, known: set[tuple[str, int]]) -> None:
        """Another launcher does not know our process: it has ended."""
        if self.handle is not None and (self.spec.name, self.handle.incarnation) not in known:
            self.exited(Exit.unseen(self.spec.name, self.spec.kind, self.handle.incarnation))

    async def stop(self, signum: int = signal.SIGTERM) -> None:
        """Ask it to end and start it no more."""
        self._stopped = True
        if self.handle is not None:
            await self._signal(self.handle.incarnation, signum)

    async def rest(self) -> None:
        """Ask it to end, and start it no more until `resume`."""
        async with self._spawning:
            self._stopped = True
            handle, self.handle = self.handle, None
            if handle is not None:
                await self._retire(handle.incarnation)

    async def resume(self) -> None:
        """Start it again. *Errors*: ServeException when it could not be."""
        async with self._spawning:
            self._stopped = False
            if self.handle is None:
                await self._spawn()

    @property
    def resting(self) -> bool:
        return self._stopped

    async def kill(self) -> None:
        self._stopped = True
        for incarnation in {*self.lame, *([self.handle.incarnation] if self.handle is not None else [])}:
            try:
                await self._launcher.kill_group(self.spec.name, incarnation)
            except ServeException as error:
                log.warning("cannot kill %s: %s", self.spec.name, error, extra={"action": "kill_failed"})

    @property
    def gone(self) -> bool:
        return self.handle is None and not self.lame

    def _fits(self, handle: Handle) -> bool:
        if self.spec.kind is ProcessKind.ETCD:  # its command line holds a random token; its place is what counts
            return handle.spec.cwd == self.spec.cwd
        theirs = {k: v for k, v in handle.spec.start.items() if k not in _CHOSEN_BY_LAUNCHER}
        ours = {k: v for k, v in self.spec.start.items() if k not in _CHOSEN_BY_LAUNCHER}
        return theirs == ours

    async def _restart(self) -> None:
        try:
            while not self._stopped:
                delay_s = _RESTART_S[min(self._failures, len(_RESTART_S) - 1)]
                self._failures += 1
                await asyncio.sleep(delay_s)
                try:
                    async with self._spawning:
                        if self.handle is None and not self._stopped:
                            await self._spawn()
                    return
                except ServeException as error:
                    log.error("cannot start %s: %s", self.spec.name, error, extra={"action": "child_not_started"})
        finally:
            self._restarting = False

    async def _spawn(self) -> None:
        self._incarnation += 1
        self.handle = await self._launcher.spawn(replace(self.spec, incarnation=self._incarnation))
        self._started_at = self._clock.monotonic()
        log.info("started %s", self.spec.name, extra={"action": "child_started", "pid": self.handle.pid})

    async def _retire(self, incarnation: int) -> None:
        self.lame.add(incarnation)
        await self._signal(incarnation, signal.SIGTERM)

    async def _signal(self, incarnation: int, signum: int) -> None:
        try:
            await self._launcher.signal(self.spec.name, incarnation, signum)
        except ServeException as error:
            log.warning("cannot signal %s: %s", self.spec.name, error, extra={"action": "signal_failed"})

    def _forget(self, incarnation: int) -> None:
        self._tasks.start(self._forget_handle(incarnation), name=f"forget {self.spec.name}.{incarnation}")

    async def _forget_handle(self, incarnation: int) -> None:
        try:
            await self._launcher.forget(self.spec.name, incarnation)
        except ServeException as error:
            log.debug("handle %s.%s: %s", self.spec.name, incarnation, error)


class Children:
    """All of them, by name. *Resources*: `close()` lets them run on."""

    def __init__(self, launcher: LauncherLink, clock: Clock) -> None:
        self._launcher, self._clock = launcher, clock
        self._tasks = TaskOwner("children")
        self._by_name: dict[str, Child] = {}

    def add(self, spec: SpawnSpec, up: Up = _up_at_once) -> Child:
        child = self._by_name[spec.name] = Child(spec, self._launcher, self._clock, self._tasks, up)
        return child

    def of(self, kind: ProcessKind) -> list[Child]:
        return [child for child in self._by_name.values() if child.spec.kind is kind]

    def exited(self, exit_: Exit) -> None:
        child = self._by_name.get(exit_.name)
        if child is not None:
            child.exited(exit_)
        else:
            self._tasks.start(self._forget(exit_), name=f"forget {exit_.name}")

    def launcher_replaced(self, handles: Iterable[Handle]) -> None:
        known = {(handle.name, handle.incarnation) for handle in handles}
        for child in self._by_name.values():
            child.unseen(known)

    async def retire_strangers(self, found: Iterable[Handle]) -> None:
        """Processes of these kinds that the present settings do not want (fewer workers, --no-proxy): they drain."""
        for handle in found:
            if handle.kind is ProcessKind.REPLICA or handle.name in self._by_name:
                continue
            if handle.exited is None:
                await self._launcher.signal(handle.name, handle.incarnation, signal.SIGTERM)
            else:
                await self._launcher.forget(handle.name, handle.incarnation)

    async def close(self) -> None:
        await self._tasks.close()

    async def _forget(self, exit_: Exit) -> None:
        try:
            await self._launcher.forget(exit_.name, exit_.incarnation)
        except ServeException as error:
            log.debug("handle %s.%s: %s", exit_.name, exit_.incarnation, error)
